"""Who has a stream open."""

from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.audience import Audience
from registry_server.errors import InvalidField, RequestError
from registry_server.rpc.table import Broadcast, Caller, Conversation, Service, Session, Table, Unary
from tests.support.core import NOBODY, Core, drive

WATCH = "/registry.v1.Registry/Watch"


class Outlet:
    def send(self, chunks: Any) -> None: ...

    def refuse(self, error: RequestError) -> None: ...


class Told(Outlet):
    """A dialogue, too: what it is sent does not matter here."""

    def free(self) -> None: ...

    def leave(self) -> None: ...

    async def received(self, request: Any) -> None: ...


async def ignore(request: Any, caller: Caller) -> bytes:
    return b""


@pytest.fixture
def audience() -> Audience:
    return Audience(lambda: 12.5)


def test_a_watch_is_there_until_it_is_over(audience: Audience) -> None:
    methods: Any = audience.attended(Table(Core().service.service())).methods
    request = pb.WatchRequest(services=["player"])
    stream = methods[WATCH].join(request, NOBODY, Outlet())
    (it,) = audience.open()
    assert (it.path, it.caller, it.opened_at, it.request) == (WATCH, NOBODY, 12.5, request)
    assert it.reader is not None
    stream.leave()
    stream.leave()
    assert len(audience) == 0


def test_every_kind_of_stream(audience: Audience) -> None:
    heard: list[str] = []

    def opened(caller: Caller, end: Any) -> Any:
        return lambda: heard.append("left")

    service = Service(
        "test.Kinds",
        {
            "Ask": Unary(pb.GetRequest, ignore),
            "Talk": Conversation(pb.GetRequest, ignore),
            "Heard": Conversation(pb.GetRequest, ignore, opened),
            "Meet": Session(pb.GetRequest, lambda caller, outlet: Told()),
            "Tell": Broadcast(pb.GetRequest, lambda request, caller, outlet: Told()),
        },
    )
    methods: Any = audience.attended(Table(service)).methods
    ends = [methods[f"/test.Kinds/{name}"].opened(NOBODY, Outlet()) for name in ("Talk", "Heard")]
    dialogue = methods["/test.Kinds/Meet"].open(NOBODY, Outlet())
    told = methods["/test.Kinds/Tell"].join(pb.GetRequest(), NOBODY, Outlet())
    assert [it.path.rpartition("/")[2] for it in audience.open()] == ["Talk", "Heard", "Meet", "Tell"]
    assert all(it.reader is None for it in audience.open())
    drive(dialogue.received(pb.GetRequest()))
    for end in (*ends, *ends, dialogue.leave, told.leave):
        end()
    assert (len(audience), heard) == (0, ["left", "left"])
    assert drive(methods["/test.Kinds/Ask"].call(pb.GetRequest(), NOBODY)) == b""


def test_who_is_refused_was_not_there(audience: Audience) -> None:
    methods: Any = audience.attended(Table(Core().service.service())).methods
    with pytest.raises(InvalidField):
        methods[WATCH].join(pb.WatchRequest(resume_token="x"), NOBODY, Outlet())
    assert len(audience) == 0


def test_who_asks_the_same_costs_one_question(audience: Audience) -> None:
    methods: Any = audience.attended(Table(Core().service.service())).methods
    for services in (["player"], ["player"], ["lobby"]):
        methods[WATCH].join(pb.WatchRequest(services=services), NOBODY, Outlet())
    first, second, other = (it.question for it in audience.open())
    assert first is second
    assert first != other


def test_a_large_question_is_not_kept(audience: Audience) -> None:
    """There may be thousands of streams, each opened with a message as large as one may be."""
    service = Service("test", {"Watch": Broadcast(pb.WatchRequest, lambda *_: Told())})
    methods: Any = audience.attended(Table(service)).methods
    for namespace in ("short", "x" * 1_000_000):
        methods["/test/Watch"].join(pb.WatchRequest(namespace=namespace), NOBODY, Outlet())
    assert [it.request and it.request.namespace for it in audience.open()] == ["short", None]
