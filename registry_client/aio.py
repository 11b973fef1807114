"""Channels for asyncio: `registry_client.aio.channel("registry://127.0.0.1:7400/player")` is a `grpc.aio.Channel`."""

from registry_client.resolver import aio_channel as channel

__all__ = ["channel"]
