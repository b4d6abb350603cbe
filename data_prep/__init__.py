"""Public data sets and raw scans to case stores; synthetic patients. Needs no torch."""
