"""Who stands before the table: streams are known while they are there, and asked again when grants change."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from registry_server.access.grants import Grant, Grants
from registry_server.access.identities import Access, Identity, Token
from registry_server.access.warden import ENDS_AT_ONCE, MAX_SPREAD_S, STREAMS_AT_ONCE, TELL_S, Warden
from registry_server.errors import PermissionDenied, RequestError, Unauthenticated, Unavailable
from registry_server.rights import EVERY
from registry_server.rpc.table import (
    Broadcast,
    Caller,
    Conversation,
    Credentials,
    Needs,
    Service,
    Session,
    Table,
    Unary,
)
from tests.support.core import drive
from tests.support.waiting import eventually_async

SHOWS_SOME = Needs("read", is_some=True)
NAMED = Needs("read", lambda request: [("default", request.value)])


def granted(**grants: list[str]) -> Access:
    made = [Identity(name, (Token.of(name),), (), Grants(map(Grant.parse, it))) for name, it in grants.items()]
    return Access(tuple(made))


def caller(name: str) -> Caller:
    return Caller("ipv4:192.0.2.1:1", credentials=Credentials(name))


class Stream:
    """The transport's end of a stream, and the method's: what each was told."""

    def __init__(self) -> None:
        self.refused: list[RequestError] = []
        self.left = 0
        self.caller: Caller | None = None

    def send(self, chunks: Any) -> None:
        raise AssertionError

    def refuse(self, error: RequestError, /) -> None:
        self.refused.append(error)

    def free(self) -> None:
        pass

    def leave(self) -> None:
        self.left += 1

    async def received(self, request: StringValue) -> None:
        pass


class Stage:
    def __init__(self, access: Access) -> None:
        self.now = 1_000.0
        self.warden = Warden(access, b"key", lambda: self.now, lambda: self.now)

        def join(request: StringValue, who: Caller, outlet: Any) -> Any:
            if request.value == "broken":
                raise Unavailable("broken")
            outlet.caller = who
            return outlet

        def begin(who: Caller, outlet: Any) -> Any:
            outlet.caller = who
            return outlet

        async def answer(request: StringValue, who: Caller) -> bytes:
            return who.identity.encode()

        table = Table(
            Service(
                "s",
                {
                    "Ask": Unary(StringValue, answer, NAMED),
                    "Talk": Conversation(StringValue, answer, needs=Needs("register", is_some=True)),
                    "Named": Broadcast(StringValue, join, NAMED),
                    "Some": Broadcast(StringValue, join, SHOWS_SOME),
                    "Session": Session(StringValue, begin, SHOWS_SOME),
                },
            )
        )
        self.methods: Any = self.warden.identified(self.warden.allowed(table)).methods

    def ask(self, who: str, service: str) -> bytes:
        return drive(self.methods["/s/Ask"].call(StringValue(value=service), caller(who)))

    def open(self, kind: str, who: str, service: str = "player") -> tuple[Stream, Any]:
        """A stream, and how to leave it."""
        stream = Stream()
        method = self.methods[f"/s/{kind}"]
        if kind == "Talk":
            return stream, method.opened(caller(who), stream)
        if kind == "Session":
            return stream, method.open(caller(who), stream).leave
        return stream, method.join(StringValue(value=service), caller(who), stream).leave

    def grant(self, **grants: list[str]) -> None:
        self.warden.grant(granted(**grants))
        asyncio.run(self.warden.review())


GAME = {"game": ["register default/player", "read default/chat"]}
Ends = list[tuple[float, Callable[[], None]]]
KINDS = ("Talk", "Named", "Some", "Session")


def test_a_call_is_made_by_whom_its_token_says() -> None:
    stage = Stage(granted(**GAME))
    assert stage.ask("game", "chat") == b"game"
    with pytest.raises(PermissionDenied, match="game has not the right `read` on default/match"):
        stage.ask("game", "match")
    with pytest.raises(Unauthenticated, match="say who you are"):
        stage.ask("", "chat")
    with pytest.raises(Unauthenticated, match="not known here"):
        stage.ask("other", "chat")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_over_is_forgotten(kind: str) -> None:
    stage = Stage(granted(**GAME))
    stream, leave = stage.open(kind, "game")
    assert len(stage.warden._open) == 1
    leave()
    leave()
    assert not stage.warden._open
    stage.grant()
    assert stream.refused == []


def test_a_stream_that_cannot_begin_is_not_known() -> None:
    stage = Stage(granted(**GAME, all=["read */*"]))
    with pytest.raises(Unavailable):
        stage.open("Named", "all", "broken")
    with pytest.raises(PermissionDenied):
        stage.open("Named", "game", "match")
    assert not stage.warden._open


def test_grants_that_stay_end_nothing() -> None:
    stage = Stage(granted(**GAME))
    streams = [stage.open(kind, "game")[0] for kind in KINDS]
    stage.grant(game=list(reversed(GAME["game"])), other=["read */*"])
    assert [it.refused for it in streams] == [[]] * len(KINDS)


@pytest.mark.parametrize(
    ("grants", "ends"),
    [
        ({}, ["Unauthenticated"] * 4),
        ({"game": []}, ["PermissionDenied"] * 4),
        ({"game": ["read default/player"]}, ["PermissionDenied", "", "Unavailable", "Unavailable"]),
        ({"game": ["register default/chat"]}, ["", "PermissionDenied", "Unavailable", "Unavailable"]),
        ({"game": ["admin */*"]}, ["", "", "Unavailable", "Unavailable"]),
    ],
)
def test_what_ends_when_grants_change(grants: dict[str, list[str]], ends: list[str]) -> None:
    stage = Stage(granted(**GAME))
    streams = [stage.open(kind, "game")[0] for kind in KINDS]
    stage.grant(**grants)
    assert ["".join(type(error).__name__ for error in it.refused) for it in streams] == ends


def test_grants_that_change_twice_are_held_against_the_latest() -> None:
    stage = Stage(granted(**GAME))
    stream, _ = stage.open("Named", "game")
    stage.grant(game=["read default/player"])
    stage.grant(game=["read default/player"])
    assert stream.refused == []
    stage.grant(game=["read default/chat"])
    assert [type(it) for it in stream.refused] == [PermissionDenied]


def test_a_token_that_ends_is_due() -> None:
    ending = dataclasses.replace(granted(**GAME).identities[0], tokens=(Token.of("game")._replace(expires_s=1_010.0),))
    stage = Stage(Access((ending,)))
    stream, leave = stage.open("Named", "game")
    assert not stage.warden.is_due
    stage.now = 1_010.0
    assert stage.warden.is_due
    asyncio.run(stage.warden.review())
    assert [str(it) for it in stream.refused] == ["this token of game has expired"]
    leave()
    assert not stage.warden.is_due


def test_others_have_their_turns_while_very_many_are_asked_again() -> None:
    stage = Stage(granted(**GAME))
    streams = [stage.open("Named", "game")[0] for _ in range(3 * STREAMS_AT_ONCE)]
    stage.warden.grant(granted())
    review = stage.warden.review()
    review.send(None)
    assert sum(bool(it.refused) for it in streams) == STREAMS_AT_ONCE
    review.close()


async def test_those_who_see_something_else_now_end_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, ends = Stage(granted(**GAME)), Ends()
    streams = [stage.open("Some", "game") for _ in range(6_000)]
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_later", lambda delay_s, end, *of: _timer(loop, ends, delay_s, lambda: end(*of)))
        stage.warden.grant(granted(game=["read default/chat"]))
        await stage.warden.review()
        assert sum(len(it.refused) for it, _ in streams) == ENDS_AT_ONCE
        await stage.warden.review()
    assert len(ends) == len(streams) - ENDS_AT_ONCE
    delays = [delay_s for delay_s, _ in ends]
    assert delays == sorted(delays)
    assert delays[-1] <= MAX_SPREAD_S
    for _, end in ends:
        end()
    assert [[type(error) for error in it.refused] for it, _ in streams] == [[Unavailable]] * len(streams)


def _timer(loop: asyncio.AbstractEventLoop, ends: Ends, delay_s: float, end: Callable[[], None]) -> asyncio.TimerHandle:
    ends.append((delay_s, end))
    return asyncio.TimerHandle(loop.time() + delay_s, end, (), loop)


async def test_who_leaves_or_may_no_more_waits_for_no_turn() -> None:
    stage = Stage(granted(**GAME))
    streams = [stage.open("Some", "game") for _ in range(ENDS_AT_ONCE + 2)]
    stage.warden.grant(granted(game=["read default/chat"]))
    await stage.warden.review()
    (stays, _), (left, leave) = streams[-2:]
    leave()
    stage.warden.grant(granted())
    await stage.warden.review()
    assert [type(it) for it in stays.refused] == [Unauthenticated]
    await eventually_async(lambda: len(stays.refused) == 2)  # the transport has ended it at the first one
    assert left.refused == []


def test_a_stream_that_cannot_be_ended_spares_no_other(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(granted(**GAME))
    streams = [stage.open("Named", "game")[0] for _ in range(3)]

    def broken(error: RequestError, /) -> None:
        raise RuntimeError("the wire is cut")

    streams[1].refuse = broken  # type: ignore[method-assign]
    stage.grant(other=["read default/player"])
    assert [len(it.refused) for it in streams] == [1, 0, 1]
    assert "the wire is cut" in caplog.text


def test_the_log_tells_of_strangers_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(granted(**GAME))
    for _ in range(1_000):
        with pytest.raises(Unauthenticated):
            stage.ask("other", "chat")
    assert len(caplog.records) == 1
    stage.now += TELL_S
    stage.warden.tell()
    stage.warden.tell()
    assert [it.getMessage() for it in caplog.records[1:]] == [
        "turned away: this token is not known here, at last ipv4:192.0.2.1:1; 999 of late"
    ]


def test_nobody_is_shown_what_needs_are_not_said() -> None:
    """A method that says nothing of its needs is for who may do everything."""
    assert Unary(StringValue, None).needs == Needs("admin")  # type: ignore[arg-type]
    assert list(Needs("admin").of(None)) == [(EVERY, EVERY)]
