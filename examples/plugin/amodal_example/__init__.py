"""What this package adds to amodal, one file each."""
