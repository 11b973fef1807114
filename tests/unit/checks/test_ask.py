"""One look, whatever the probe does or raises: it fails, and says as much of it as it can."""

import ssl

import pytest

from registry_checks.ask import ask
from registry_checks.probes import Failed, Probes, Reach, Target
from registry_checks.text import parse


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("it cannot say what it is")


class MuteFailed(Failed):
    def __str__(self) -> str:
        raise ValueError("nor this one")


class Raising:
    """A probe that fails like that."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def look(self) -> str:
        raise self._error

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Failed("ill"), "ill"),
        (ValueError("\ud800\n" + "x" * 5000), None),
        (OSError(1, 2), "2"),
        (OSError(), ""),
        (ssl.SSLError(), None),
        (ssl.SSLCertVerificationError(), None),
        (Mute(), "Mute"),
        (MuteFailed(), "MuteFailed"),
        (TimeoutError(), "no answer within 1 s"),
    ],
    ids=repr,
)
async def test_whatever_a_look_raises(error: Exception, said: str | None) -> None:
    found = await ask(Raising(error), 1.0)
    assert not found.passed
    assert len(found.output) <= 256
    assert found.output.encode().decode().isprintable()
    assert said in (None, found.output)


class Odd:
    """What a check of somebody's own returns."""

    def __str__(self) -> str:
        raise SystemExit("not even that ends the server")


@pytest.mark.parametrize(("returned", "passed"), [(None, True), (0, True), ("\ud800", True), (Odd(), False)])
async def test_whatever_a_check_of_ones_own_returns(returned: object, passed: bool) -> None:
    async def own(host: str, port: int, settings: object) -> object:
        return returned

    probe = Probes(Reach(), {"own": own}).of(Target("10.0.0.1", 1), parse("custom:own"))  # type: ignore[dict-item]
    assert probe is not None
    try:
        found = await ask(probe, 5.0)
    finally:
        await probe.aclose()
    assert found.passed is passed
    assert found.output.isprintable()
