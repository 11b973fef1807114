"""CORE: why an instance gets traffic or none, and who was told, as it is said to people."""
