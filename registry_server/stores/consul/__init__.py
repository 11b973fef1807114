"""Consul's KV as a backend of a store: values under names, in a log that all replicas write and follow."""
