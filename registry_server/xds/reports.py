"""SHELL: LoadReportingService: clients are asked to report what became of their calls."""

from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.rpc.table import Caller, Needs, Outlet, Service, Session
from registry_server.xds.described import LOADS_NAME
from registry_server.xds.load import LoadBook


class LoadReports:
    """StreamLoadStats. `clock` gives seconds since 1970."""

    def __init__(self, book: LoadBook, clock: Callable[[], float]) -> None:
        self._book = book
        self._clock = clock

    def service(self) -> Service:
        """What a table says of it."""
        method = Session(ads.LoadStatsRequest, self._open, Needs("read", is_some=True))
        return Service(LOADS_NAME, {"StreamLoadStats": method})

    def _open(self, caller: Caller, outlet: Outlet) -> "LoadStream":
        return LoadStream(self._book, self._clock, caller, outlet)


class LoadStream:
    """One client that reports: a table.Dialogue. It is told once what to report, and how often."""

    def __init__(self, book: LoadBook, clock: Callable[[], float], caller: Caller, outlet: Outlet) -> None:
        self._book = book
        self._clock = clock
        self._caller = caller
        self._outlet = outlet
        self._has_asked = False
        self._is_over = False

    async def received(self, request: ads.LoadStatsRequest) -> None:
        """See table.Dialogue."""
        if self._is_over:
            return
        if not self._has_asked:
            self._has_asked = True
            interval = Duration()
            interval.FromNanoseconds(round(self._book.came(self) * 1e9))
            asked = ads.LoadStatsResponse(send_all_clusters=True, load_reporting_interval=interval)
            self._outlet.send((asked.SerializeToString(),))
        self._book.report(self, request.cluster_stats, self._caller.rights, self._clock())

    def free(self) -> None:
        """See table.Subscription. There is nothing more to tell."""

    def leave(self) -> None:
        """See table.Subscription."""
        self._is_over = True
        self._book.left(self)
