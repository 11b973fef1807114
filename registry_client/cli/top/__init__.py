"""`registryctl top`: what is registered and what happens to it, on the whole terminal."""

from registry_client.cli.top.command import top

__all__ = ["top"]
