"""The audit log: every write that somebody asked for, also those that were refused."""
