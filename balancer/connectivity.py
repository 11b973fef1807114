"""A connection's state in gRPC's words and in the pool's."""

import grpc

from balancer.policies.base import ConnectivityState

TO_GRPC = {state: grpc.ChannelConnectivity[state.name] for state in ConnectivityState}
FROM_GRPC = {grpc_state: state for state, grpc_state in TO_GRPC.items()}
