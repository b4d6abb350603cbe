"""A small web page on this machine: drop a scan, watch it being segmented, fetch the masks."""
