"""Template databases: the inputs of a build, and when a template is used or kept."""
