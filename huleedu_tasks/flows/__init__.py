"""What the product does, as sentences; no input or output of their own."""
