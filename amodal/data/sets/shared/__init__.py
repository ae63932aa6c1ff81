"""What the files beside this folder share."""
