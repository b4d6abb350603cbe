"""Whole-volume prediction on the exact grid of the input scan."""
