"""Instances: fleets of databases beside the main one, for linked worktrees of Git."""
