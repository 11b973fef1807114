"""`registryctl`: the registry from a shell."""

from registry_client.cli.app import main

__all__ = ["main"]
