"""What has been learnt, without labels: how many dimensions are in use, how the fields lie to each
other."""
