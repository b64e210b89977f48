"""The training loop and its checkpoints; it knows only "batch -> loss"."""
