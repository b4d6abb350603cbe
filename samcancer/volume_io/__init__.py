"""Reading and writing CT volumes and label maps, with every check that concerns the file."""
