"""SHELL: what the two kinds of channel, `balancer.aio` and `balancer.threads`, have in common."""
