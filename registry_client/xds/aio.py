"""For asyncio: `registry_client.xds.aio.channel("player", registry="127.0.0.1:7400")` is a `grpc.aio.Channel`."""

from registry_client.xds.channels import aio_channel as channel

__all__ = ["channel"]
