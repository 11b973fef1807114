"""Channels by gRPC's own xDS client, which needs no bootstrap file here: `registry_client.xds.channel("player",
registry="127.0.0.1:7400")`, and `registry_client.xds.aio.channel` for asyncio."""

from registry_client.xds import aio
from registry_client.xds.channels import channel

__all__ = ["aio", "channel"]
