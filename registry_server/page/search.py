"""CORE: looking for instances by a part of what they are called, where they listen, or what stands in them."""

from collections.abc import Iterator

from registry_server.catalog import Catalog
from registry_server.model import Entry, Query
from registry_server.page.shown import Cells
from registry_server.rights import Rights

MAX_FOUND = 100
MAX_ASKED = 200


def searched(catalog: Catalog, rights: Rights, asked: str) -> Iterator[Cells | None]:
    """What fits, as namespace, service, id, and where that was found; in between, None when others are to have a turn.
    `asked` is taken as it is, whatever the case."""
    wanted = asked.strip().casefold()[:MAX_ASKED]
    found = 0
    for block in catalog.blocks(Query("")) if wanted else ():
        for entry in block.entries:
            where = _where(entry, wanted)
            if where and rights.may("read", entry.key.namespace, entry.key.service):
                found += 1
                yield [entry.key.namespace, entry.key.service, entry.key.id, where]
                if found > MAX_FOUND:
                    return
        yield None


def _where(entry: Entry, wanted: str) -> str:
    host, port = entry.address
    traits = entry.traits
    if wanted in entry.key.id.casefold():
        return "id"
    if wanted in f"{host}:{port}".casefold():
        return f"{host}:{port}"
    for said in (*sorted(traits.tags), *filter(None, traits.locality), traits.version, entry.owner.by):
        if wanted in said.casefold():
            return said
    for key, value in sorted(entry.metadata):
        if wanted in f"{key}={value}".casefold():
            return f"{key}={value}"
    return ""
