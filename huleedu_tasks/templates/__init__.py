"""Template databases: their inputs, and when one is used or kept."""
