"""The ZooKeeper store: a backend (stores/backend.py) that keeps a log of all writes, and what `Leased` makes of it.

`chronicle.py` says what is in the log, `clerk.py` writes and follows it, `backend.py` opens and closes; `znodes.py`
alone knows kazoo.
"""
