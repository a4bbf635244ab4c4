"""Label protocols, one TSV file each."""
