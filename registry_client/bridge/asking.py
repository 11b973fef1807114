"""SHELL: a question to a channel or a balancer, whichever it is: why it calls whom it calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from registry_client import checks

if TYPE_CHECKING:
    from balancer import Why


@runtime_checkable
class _Balancing(Protocol):
    """A client of a registry can be asked why, too; only who balances has numbers of it."""

    def why(self) -> Why: ...

    def stats(self) -> object: ...


def why(channel: object) -> Why:
    """Why a channel of `registry_client` or `balancer`, or a balancer, calls some instances and others not.

    `print(registry_client.why(channel))` is a line for each instance; `registry_client.why(channel).of("p1")` is what
    there is to say of one: connected, being connected to, failed and with what, ejected and for how long, not in the
    subset, of weight 0, draining. Nothing is asked of the registry. Raises InvalidArgument for anything else.
    """
    if isinstance(channel, type) or not isinstance(channel, _Balancing):
        raise checks.wrong_type("channel", "must be one that registry_client.channel gave, or a balancer", channel)
    return channel.why()
