"""A connection's state in gRPC's words and in the pool's."""

import grpc

from balancer.policies.base import ConnectivityState

TO_GRPC = {state: grpc.ChannelConnectivity[state.name] for state in ConnectivityState}
FROM_GRPC = {grpc_state: state for state, grpc_state in TO_GRPC.items()}

IDLING = (ConnectivityState.IDLE, ConnectivityState.TRANSIENT_FAILURE)
"""A channel in one of these may have endpoints that nobody has tried. When the one that was tried is dead,
another is (gRFC A42)."""
