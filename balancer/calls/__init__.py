"""CORE: one call over its attempts, without gRPC: what a method asks for, what follows when an attempt ended, and what
of a call is kept for another attempt. The drivers are `balancer.aio` and `balancer.threads`."""
