"""Calibration on healthy scans: thresholds that keep them clean at the least loss of sensitivity.

What a user of a detector meets first is the healthy scan that it marks. Here the share of healthy
scans with any false lesion is given, and the thresholds are fitted to it: of presence, of
probability and of size, for each lesion class. Fitting: :mod:`samcancer.calibration.fit`.
"""
