"""Synthetic CT patients with lesions: drawn from a seed, the same bytes on any machine.

The bytes can only agree everywhere if every number does, so the package keeps to arithmetic that
IEEE 754 fixes to the last bit (add, subtract, multiply, divide, square root, comparisons, integers)
and to raw random bits. No vectorised exp/sin/log, no BLAS, no float reductions, no zlib deflate.
"""
