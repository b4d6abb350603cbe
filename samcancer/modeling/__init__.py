"""The SAMCancer network and its parts; nothing here reads or writes files."""
