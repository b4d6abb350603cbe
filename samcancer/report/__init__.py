"""Self-contained HTML pages from predictions, tables and training logs."""
