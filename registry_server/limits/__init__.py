"""What anybody may take of this server, and what is refused before it is lost. See docs/protocol.md."""
