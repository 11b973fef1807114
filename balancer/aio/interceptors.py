"""The user's interceptors, by the kind of call each is for, and the innermost one, which begins the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from balancer.aio.methods import Method

_KINDS = (
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
)


class Forward(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """The innermost interceptor: begins the call the user's interceptors have agreed on."""

    def __init__(self, method: Method) -> None:
        self._method = method

    async def _begin(self, _continuation: Any, details: Any, request: Any) -> Any:
        method = self._method.at(details.method)
        return method.begin(request, details.timeout, details.metadata, details.credentials, details.wait_for_ready)

    # grpc.aio asks for one of these by the kind of call; to this class they are all the same.
    intercept_unary_unary: Any = _begin
    intercept_unary_stream: Any = _begin
    intercept_stream_unary: Any = _begin
    intercept_stream_stream: Any = _begin


def chains_of(interceptors: Sequence[grpc.aio.ClientInterceptor]) -> dict[type, list[grpc.aio.ClientInterceptor]]:
    """Interceptors by the first kind each is of: that is the one kind grpc.aio uses an object for."""
    chains: dict[type, list[grpc.aio.ClientInterceptor]] = {kind: [] for kind in _KINDS}
    for interceptor in interceptors:
        for kind, chain in chains.items():
            if isinstance(interceptor, kind):
                chain.append(interceptor)
                break
        else:
            names = " or ".join(kind.__name__ for kind in chains)
            raise ValueError(f"Interceptor {interceptor} must be {names}.")
    return chains
