"""`migrations.*`: what is checked before a revision is merged."""
