"""Between client and balancer: what is registered behind a policy, over one watch."""
