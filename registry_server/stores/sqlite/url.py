"""The URL of a file: `sqlite:PATH`."""

from pathlib import Path

from registry_server.stores.base import BadStoreURL

SCHEME = "sqlite:"
TEMPLATE = """\
# The file, which is made if it is not there; its directory has to be. One server has it at a time.
path = "registry.db"
"""


def path_of(url: str) -> Path:
    """The file of `sqlite:PATH`. Raises BadStoreURL."""
    text = url.removeprefix(SCHEME)
    if text in ("", ":memory:"):
        raise BadStoreURL("store URL: sqlite: needs the path of a file; for a store without one write memory:")
    if text.startswith("//") and not text.startswith("///"):
        raise BadStoreURL("store URL: sqlite: has no host: write sqlite:PATH, without '//'")
    if "\0" in text or "?" in text or text.endswith("/"):
        raise BadStoreURL("store URL: sqlite: is followed by the path of a file, and takes no settings ('?')")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise BadStoreURL("store URL: sqlite: there is no such user to have a home directory") from None
