"""Output on the terminal, and prompts."""
