"""Files on the disk: atomic writing, checksums, netCDF, tables, the parts of a dataset, and what made a file."""
