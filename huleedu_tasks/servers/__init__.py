"""Where development servers come from: one protocol, and those who fulfil it."""
