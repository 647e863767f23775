"""Connections, databases, locks and inspection: the only package that sends SQL."""
