"""SAMCancer: automatic pan-cancer segmentation of CT, learned from partially labelled data sets."""

__version__ = "0.1.0"
