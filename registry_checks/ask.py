"""SHELL: one look by a probe, within its time, whatever the probe does."""

import asyncio
import ssl
from typing import NamedTuple

from registry_checks.probes.base import Failed, Probe
from registry_checks.rules import shown


class Found(NamedTuple):
    """What one look found: whether it passed, and what is to be said of it."""

    passed: bool
    output: str


async def ask(probe: Probe, timeout_s: float) -> Found:
    """Look once. Raises nothing but CancelledError."""
    try:
        async with asyncio.timeout(timeout_s):
            return Found(True, shown(str(await probe.look())))
    except Exception as error:
        return Found(False, _shown(error, timeout_s))


def _shown(error: Exception, timeout_s: float) -> str:
    """What it says, if it can: who brought a check may raise anything."""
    try:
        return shown(str(_said(error, timeout_s)))
    except Exception:
        return type(error).__name__


def _said(error: Exception, timeout_s: float) -> str:
    match error:
        case Failed():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"TLS: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {error.reason or error}"
        case TimeoutError():
            return f"no answer within {timeout_s:g} s"
        case OSError():
            return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"
