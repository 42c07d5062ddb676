"""Neural networks, one file each."""
