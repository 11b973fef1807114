"""Consul's catalog as a neighbour; docs/consul.md is the manual page."""
