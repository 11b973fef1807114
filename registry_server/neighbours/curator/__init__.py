"""Curator's service discovery in ZooKeeper as a neighbour; docs/zookeeper.md is the manual page."""
