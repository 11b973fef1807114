"""SHELL: the inside of the channel for threads. Each file has its counterpart for asyncio in `balancer.aio`."""
