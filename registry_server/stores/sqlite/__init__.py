"""The store that keeps its records in a file of its own, by SQLite."""
