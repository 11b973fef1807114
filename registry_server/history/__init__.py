"""What became of instances: remembered for people to look at."""
