"""What has been learnt, without labels: how many dimensions are in use, how the senses lie to each other."""
