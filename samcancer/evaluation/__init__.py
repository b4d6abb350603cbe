"""Metrics and protocols on label volumes; needs no torch."""
