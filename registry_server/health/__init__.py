"""Health checks that the server runs: what they found is written into the instances, like everything else."""
