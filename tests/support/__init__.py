"""Support for the tests: monorepos to work in, and the command line in a child process."""
