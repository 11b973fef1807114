"""CORE: checks of the options of policies, which may come as text from a URL."""

from __future__ import annotations

from math import inf
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def at_least(least: int, kind: type[_Number], name: str, value: float | str, *, most: float = inf) -> _Number:
    """`value` as a number. Raises ValueError, naming the option, when it is none, not finite, or out of bounds."""
    try:
        number = kind(value)
    except ValueError:
        raise ValueError(f"{name}: must be a number, is {value}") from None
    if not least <= number <= most or number == inf:
        bounds = f"at least {least}" if most == inf else f"{least} to {most}"
        raise ValueError(f"{name}: must be {bounds}, is {value}")
    return number
