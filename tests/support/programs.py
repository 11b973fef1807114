"""All programs that tests need and have to build; `python -m tests.support.programs` builds them ahead."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.building import NotBuilt, Program
from tests.support.clients import CLIENTS
from tests.support.consul import CONSUL
from tests.support.go_tools import GO_TOOLS
from tests.support.newest import NEWEST_ETCD
from tests.support.xds_clients import XDS_PROGRAMS
from tests.support.zookeeper import ZOOKEEPER

ALL = (
    CONSUL,
    NEWEST_ETCD,
    ZOOKEEPER,
    *GO_TOOLS.values(),
    *XDS_PROGRAMS,
    *(client.program for client in CLIENTS.values() if client.program),
)
# Some of them wait for the network most of the time.
AT_A_TIME = 2


def ahead(program: Program) -> None:
    """Build it now, if it is to be built, and say what comes of it."""
    if program.home.exists():
        return
    began = time.monotonic()
    try:
        program.built()
    except NotBuilt as error:
        print(f"the tests with {program.name} will be skipped: {error}", file=sys.stderr)
    else:
        print(f"built {program.name} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    with ThreadPoolExecutor(AT_A_TIME) as builders:
        list(builders.map(ahead, ALL))
