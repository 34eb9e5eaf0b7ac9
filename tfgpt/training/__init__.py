"""Training: the loop, its step, checkpoints, and what a run promises about going on."""
