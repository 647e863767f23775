"""What the tests share: monorepos to work in, and the command line in a child process."""
