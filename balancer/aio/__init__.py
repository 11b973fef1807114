"""SHELL: the inside of the channel for asyncio. Each file has its counterpart for threads in `balancer.threads`."""
