"""SHELL: the file: opened by one process at a time, read whole, written whole transactions. For one thread alone."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.sqlite.ledger import STRIDE, Flush, Row

# "gRPC", and the version of what is in the file.
APPLICATION, VERSION = 0x67525043, 1
MAX_CEILING = 2**52
# So long, in seconds, somebody else may take to let go of the file: a server that is just being stopped.
LOCK_S = 2.0

_SCHEMA = """
    CREATE TABLE items (
        name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
        value BLOB NOT NULL CHECK (typeof(value) = 'blob'),
        revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer' AND revision > 0),
        created INTEGER NOT NULL CHECK (typeof(created) = 'integer' AND created BETWEEN 1 AND revision)
    ) WITHOUT ROWID;
    CREATE TABLE ceiling (revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer' AND revision > 0));
    INSERT INTO ceiling VALUES (1);
"""

# For people to look at; a file without it is good as well.
_EVENTS = """
    CREATE TABLE IF NOT EXISTS events (
        number INTEGER PRIMARY KEY NOT NULL, event BLOB NOT NULL CHECK (typeof(event) = 'blob')
    )
"""

_BROKEN = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_OF_TABLE = ("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")


class BadFile(StoreError):
    """The file cannot be used, and trying again will not help. The text names the file and says what to do."""


class DiskFull(StoreAway):
    """There is no room for what was to be written. Nothing was changed; the file can be used on."""


class BadShelf(StoreError):
    """The table of events is not as it should be. Nothing was changed; the file can be used on."""


class Database:
    """One open file. Raises BadFile or StoreAway."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._named():
            _make(path)
            self._connection = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None)
            self._files: list[object] = []
            self._connection.text_factory = lambda text: text.decode(errors="replace")
            try:
                self._begin()
                self.identity: object = _identity(path)
            except BaseException:
                self._connection.close()
                raise

    def _begin(self) -> None:
        execute = self._connection.execute
        # Everybody else is kept out from here on, and nothing in somebody else's file is touched.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("BEGIN EXCLUSIVE")
        self._identify()
        execute(_EVENTS)
        execute("COMMIT")
        if execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StoreAway(f"{self._path}: its file system takes no write-ahead log")
        execute("PRAGMA synchronous = FULL")  # what was answered is on the disk, also when the power fails
        execute("PRAGMA fullfsync = 1")
        execute("PRAGMA checkpoint_fullfsync = 1")

    def _identify(self) -> None:
        [application], [version] = (self._one(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        is_new = self._one("SELECT count(*) FROM sqlite_master") == (0,) and (application, version) == (0, 0)
        if is_new:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        elif application != APPLICATION:
            raise BadFile(f"{self._path}: is a database of another program; give the registry a file of its own")
        elif version != VERSION:
            raise BadFile(f"{self._path}: was written by another version of the registry (layout {version})")

    def _one(self, statement: str) -> tuple[int, ...]:
        found: tuple[int, ...] | None = self._connection.execute(statement).fetchone()
        if found is None:
            raise BadFile(f"{self._path}: is broken: it lacks a row that it needs")
        return found

    # ---- what is in it

    def begin_at(self) -> int:
        """A revision above all that were given by whoever had the file before; raises the ceiling by a STRIDE."""
        with self._named():
            [ceiling] = self._one("SELECT revision FROM ceiling")
            [greatest] = self._one("SELECT coalesce(max(revision), 0) FROM items")
            if not greatest <= ceiling <= MAX_CEILING:
                raise BadFile(f"{self._path}: is broken: it is at {ceiling} and has a value of {greatest}")
            self._write(Flush(ceiling=ceiling + STRIDE))
            self._files = self._stat()
            return ceiling

    def rows(self) -> list[Row]:
        """All values."""
        with self._named():
            return [Row(*row) for row in self._connection.execute("SELECT name, value, revision, created FROM items")]

    def write(self, flush: Flush) -> None:
        """All of it, or nothing; when this returns it is on the disk. After DiskFull it was nothing, after any other
        error nobody knows, and the file has to be opened anew."""
        with self._named():
            self._write(flush)
            self._check_files()

    def _write(self, flush: Flush) -> None:
        self._do(partial(self._put, flush))

    def _put(self, flush: Flush) -> None:
        execute, many = self._connection.execute, self._connection.executemany
        if flush.puts:
            many("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", flush.puts)
        if flush.deletes:
            many("DELETE FROM items WHERE name = ?", [(name,) for name in flush.deletes])
        if flush.ceiling:
            execute("UPDATE ceiling SET revision = ?", (flush.ceiling,))

    def _do(self, work: Callable[[], None]) -> None:
        """All of it, or nothing."""
        execute = self._connection.execute
        try:
            execute("BEGIN")
            work()
            execute("COMMIT")
        except Exception:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _check_files(self) -> None:
        if self._stat() != self._files:
            raise StoreAway(f"{self._path}: was removed or replaced while it was in use; start the server anew")

    # ---- what happened

    def events(self) -> list[tuple[int, bytes]]:
        """All events with their numbers, in the order of these. Raises BadShelf too, as the next."""
        with self._named(), self._beside():
            rows = self._connection.execute("SELECT number, event FROM events ORDER BY number")
            return [(number, event) for number, event in rows if isinstance(number, int) and isinstance(event, bytes)]

    def write_events(self, puts: Sequence[tuple[int, bytes]], deletes: Sequence[int]) -> None:
        """As `write`, of events."""
        with self._named():
            with self._beside():
                self._do(partial(self._put_events, puts, deletes))
            self._check_files()

    def _put_events(self, puts: Sequence[tuple[int, bytes]], deletes: Sequence[int]) -> None:
        many = self._connection.executemany
        many("DELETE FROM events WHERE number = ?", [(number,) for number in deletes])
        many("INSERT OR REPLACE INTO events VALUES (?, ?)", puts)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    # ---- within

    def _stat(self) -> list[object]:
        """Which files these are, once it was written: SQLite would go on writing to one that has been removed."""
        return [_identity(self._path), _identity(Path(f"{self._path}-wal"))]

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """What is wrong with a table that nobody needs, as an error that costs nobody the file."""
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            # What Python's side refuses has no name of SQLite's.
            if not getattr(error, "sqlite_errorname", _OF_TABLE[0]).startswith(_OF_TABLE):
                raise
            raise BadShelf(f"{self._path}: its table events is broken, or was changed by hand ({error})") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What SQLite says, as an error that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise _meaning(self._path, error) from error
        except OSError as error:
            raise BadFile(f"{self._path}: {error.strerror}") from error


def _make(path: Path) -> None:
    """Make the file, for this user alone: ids of leases are secrets. Raises BadFile or OSError."""
    if not path.parent.is_dir():
        raise BadFile(f"{path}: there is no such directory: {path.parent}")
    if path.exists() and not path.is_file():
        raise BadFile(f"{path}: is no regular file")
    # Only if it is not there: to close a file would let go of the locks that this process may have on it.
    with suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _meaning(path: Path, error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(_BROKEN):
        return BadFile(f"{path}: is no database, or a broken one ({error}); move it away, or put a copy in its place")
    if name == "SQLITE_ERROR":
        return BadFile(f"{path}: is broken, or was changed by hand ({error}); put a copy in its place")
    if name.startswith("SQLITE_BUSY"):
        return BadFile(f"{path}: is in use by another process; a file is for one server alone")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return BadFile(f"{path}: it, or its directory, cannot be written ({error})")
    if name.startswith("SQLITE_FULL"):
        return DiskFull(f"{path}: no room: {error}")
    return StoreAway(f"{path}: {error}")
