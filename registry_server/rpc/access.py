"""The methods of registry.v1.Access: who somebody is to the server."""

import math
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import access_pb2 as pb
from registry_server.feed import Feed
from registry_server.rpc import answers
from registry_server.rpc.table import OPEN, Caller, Credentials, Service, Unary

NAME = pb.DESCRIPTOR.services_by_name["Access"].full_name

Until = Callable[[Credentials], float]
"""When what somebody shows ends, in seconds since 1970; infinite if it does not."""


class AccessService:
    """One method for each RPC. Without `until`, nobody is asked."""

    def __init__(self, feed: Feed, until: Until | None = None) -> None:
        self._feed = feed
        self._until = until

    def service(self) -> Service:
        """What a table says of it."""
        return Service(NAME, {"WhoAmI": Unary(pb.WhoAmIRequest, self.who_am_i, OPEN)})

    async def who_am_i(self, request: pb.WhoAmIRequest, caller: Caller) -> bytes:
        """WhoAmI: see access.proto."""
        catalog, until = self._feed.catalog, math.inf if self._until is None else self._until(caller.credentials)
        return pb.WhoAmIResponse(
            header=answers.header(catalog.epoch, catalog.revision, self._feed.stale_for_s),
            asks=self._until is not None,
            identity=caller.identity,
            grants=caller.rights.grants,
            expires=None if until == math.inf else Timestamp(seconds=int(until)),
            peer=caller.peer,
            names=caller.credentials.names,
        ).SerializeToString()
