"""Losses, the training loop, checkpoints and pseudo labels."""
