"""CORE: the rooms of the pool: which endpoints have a connection, which of them may be picked, and by whom."""
