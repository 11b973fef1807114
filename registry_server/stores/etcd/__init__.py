"""A store that keeps its records in an etcd cluster. `store.py` is the store; the other files are its rooms."""
