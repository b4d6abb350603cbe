"""One self-contained page per scan, with a slice viewer, and one index of a folder's pages."""

from samcancer.report.scan.page import write_scan_page

__all__ = ["write_scan_page"]
