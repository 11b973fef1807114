"""gRPC on asyncio and libnghttp2 (PyPI's `ngh2`), which makes every byte of HTTP/2."""
