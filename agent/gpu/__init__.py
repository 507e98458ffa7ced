"""GPUs and models: what fits where, and whether it really is there. Pure."""
