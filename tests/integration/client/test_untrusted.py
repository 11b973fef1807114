"""Whatever a server answers: it is bounded, backed off, and refused where it cannot be; what renews goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import InvalidAnswer, NotFound, RegistryClient, RegistryError, State, answers
from tests.integration.client.conftest import player
from tests.integration.client.test_registering import nobody_there
from tests.support.fake_registry import FakeRegistry, end_it, fail, serving, silent
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed

FINAL_S = 10.0  # a registry that answers and makes no sense is given up within this


@pytest.fixture
async def fake() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
async def registry(fake: FakeRegistry) -> AsyncIterator[RegistryClient]:
    async with serving(fake) as address, registry_client.connect(address, cache_dir=None) as client:
        yield client
        fake.spoil.clear()


# ---- Register

Change = Callable[[pb.RegisterResponse], object]
NOT_TO_BE_BELIEVED: dict[str, Change] = {
    "another id": lambda it: setattr(it.instance, "id", "p2"),
    "no id": lambda it: it.instance.ClearField("id"),
    "another service": lambda it: setattr(it.instance, "service", "chat"),
    "another namespace": lambda it: setattr(it.instance, "namespace", "prod"),
    "another port": lambda it: setattr(it.instance, "port", 1),
    "another host": lambda it: setattr(it.instance, "host", "10.0.0.6"),
    "no instance": lambda it: it.ClearField("instance"),
    "no lease": lambda it: it.ClearField("lease_id"),
    "a lease of a page": lambda it: setattr(it, "lease_id", "L" * 10_000),
    "an empty epoch": lambda it: it.header.ClearField("epoch"),
    "no header": lambda it: it.ClearField("header"),
}


@pytest.mark.parametrize("what", NOT_TO_BE_BELIEVED)
async def test_an_answer_to_register_that_cannot_be_is_refused(
    fake: FakeRegistry, registry: RegistryClient, what: str
) -> None:
    def spoil(answer: pb.RegisterResponse, _: object) -> None:
        NOT_TO_BE_BELIEVED[what](answer)

    fake.spoil["Register"] = spoil
    with pytest.raises(InvalidAnswer):
        await asyncio.wait_for(registry.register(player("p1")).start(), FINAL_S)
    assert fake.calls["Register"] <= 6


async def test_an_answer_for_another_lease_is_refused(fake: FakeRegistry, registry: RegistryClient) -> None:
    async with registry.register(player("p1"), drain=0):

        def spoil(answer: pb.RegisterResponse, _: object) -> None:
            answer.lease_id = "L2"

        fake.spoil["Register"] = spoil
        with pytest.raises(InvalidAnswer):
            await asyncio.wait_for(registry.register(player("p2", 8002)).start(), FINAL_S)


async def test_other_spellings_of_a_host_are_the_same_host(fake: FakeRegistry, registry: RegistryClient) -> None:
    def spoil(answer: pb.RegisterResponse, _: object) -> None:
        answer.instance.host = "2001:db8::1"

    fake.spoil["Register"] = spoil
    instance = registry_client.Instance("player", "2001:DB8:0:0::1", 8001)
    async with registry.register(instance, drain=0, timeout=FINAL_S) as registration:
        assert registration.instance.host == "2001:db8::1"


@pytest.mark.parametrize(
    ("code", "tries"),
    [
        ("UNIMPLEMENTED", 6),
        ("DATA_LOSS", 6),
        ("INTERNAL", 6),
        ("UNKNOWN", 6),
        ("ABORTED", 6),
        ("NOT_FOUND", 1),
        ("ALREADY_EXISTS", 6),
        ("RESOURCE_EXHAUSTED", 1),
        ("PERMISSION_DENIED", 1),
        ("UNAUTHENTICATED", 1),
        ("INVALID_ARGUMENT", 1),
        ("FAILED_PRECONDITION", 1),
    ],
)
async def test_only_a_registry_that_is_away_is_waited_for(
    fake: FakeRegistry, registry: RegistryClient, code: str, tries: int
) -> None:
    """Whatever else it says ends the registration, sooner or later, with what it said."""
    fake.spoil["Register"] = fail(grpc.StatusCode[code], "this is why")
    with pytest.raises(RegistryError, match="this is why") as caught:
        await asyncio.wait_for(registry.register(player("p1")).start(), FINAL_S)
    assert 1 <= fake.calls["Register"] <= tries
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ttl_s", [0, -5, 10**9, None])
async def test_a_ttl_that_makes_no_sense_is_not_believed(
    fake: FakeRegistry, registry: RegistryClient, ttl_s: int | None
) -> None:
    def spoil(answer: pb.RegisterResponse, _: object) -> None:
        answer.ClearField("ttl")
        if ttl_s is not None:
            answer.ttl.seconds = ttl_s

    def spoil_renewal(answer: pb.KeepAliveResponse, _: object) -> None:
        for renewal in answer.renewals:
            renewal.ClearField("ttl")
            if ttl_s is not None:
                renewal.ttl.seconds = ttl_s

    fake.spoil |= {"Register": spoil, "renewal": spoil_renewal}
    async with registry.register(player("p1"), ttl=3, drain=0) as registration:
        assert 1 <= registration.ttl_s <= 3600
        await passed(2.5)
        assert fake.calls["renewal"] <= 5
        assert registration.state is State.REGISTERED


# ---- KeepAlive


def of_other_leases(answer: pb.KeepAliveResponse, _: object) -> None:
    for renewal in answer.renewals:
        renewal.lease_id += "x"


def of_nothing(answer: pb.KeepAliveResponse, _: object) -> None:
    del answer.renewals[:]


def gone(answer: pb.KeepAliveResponse, _: object) -> None:
    for renewal in answer.renewals:
        renewal.state = pb.Renewal.UNKNOWN


def short(answer: pb.KeepAliveResponse, _: object) -> None:
    for renewal in answer.renewals:
        renewal.instances = -7


def of_no_epoch(answer: pb.KeepAliveResponse, _: object) -> None:
    answer.header.ClearField("epoch")


def of_ever_new_epochs(answer: pb.KeepAliveResponse, _: object) -> None:
    gone(answer, None)
    answer.header.epoch = f"e{id(answer)}"


def ten_thousand_times(answer: pb.KeepAliveResponse, _: object) -> list[pb.KeepAliveResponse]:
    for number in range(10_000):
        answer.renewals.add(lease_id=f"x{number}", state=pb.Renewal.UNKNOWN)
    return [answer] * 3


async def raise_it(*_: object) -> None:
    raise RuntimeError


NONSENSE: dict[str, dict[str, object]] = {
    "ends at once": {"KeepAlive": end_it},
    "fails at once": {"KeepAlive": fail(grpc.StatusCode.INTERNAL)},
    "is not there": {"KeepAlive": fail(grpc.StatusCode.UNIMPLEMENTED)},
    "fails with junk": {"KeepAlive": fail(grpc.StatusCode.UNAVAILABLE, status=b"\xff\xff")},
    "ends when asked": {"renewal": end_it},
    "raises": {"renewal": raise_it},
    "never answers": {"renewal": silent},
    "of other leases": {"renewal": of_other_leases},
    "of nothing": {"renewal": of_nothing},
    "gone": {"renewal": gone},
    "short": {"renewal": short},
    "of no epoch": {"renewal": of_no_epoch},
    "of ever new epochs": {"renewal": of_ever_new_epochs},
    "ten thousand times": {"renewal": ten_thousand_times},
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_nonsense_on_the_stream_of_renewals_is_survived(
    fake: FakeRegistry, registry: RegistryClient, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked with growing pauses while it lasts, and all is well as soon as it is over. The log says little."""
    async with registry.register(player("p1"), ttl=3, drain=0) as registration:
        fake.spoil |= NONSENSE[what]
        await passed(3.0)
        assert 1 <= fake.calls["KeepAlive"] <= 20
        assert fake.calls["renewal"] <= 20
        assert fake.calls["Register"] + fake.calls["Get"] + fake.calls["List"] <= 30
        said = [it for it in caplog.records if it.name.startswith("registry_client") and it.levelname != "DEBUG"]
        assert len(said) <= 2
        assert not any(record.exc_info for record in said)
        fake.spoil.clear()
        before = fake.calls["renewal"]
        await eventually_async(lambda: fake.calls["renewal"] >= before + 2)
        await eventually_async(lambda: registration.state is State.REGISTERED and registration.invisible_for is None)


async def test_a_stream_that_ends_after_an_answer_is_not_asked_for_without_pause(
    fake: FakeRegistry, registry: RegistryClient
) -> None:
    async def end_after_one(_: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        await context.abort(grpc.StatusCode.UNAVAILABLE, "enough")

    async with registry.register(player("p1"), ttl=15, drain=0):
        answered = 0

        def once(answer: pb.KeepAliveResponse, context: grpc.aio.ServicerContext) -> object:  # type: ignore[type-arg]
            nonlocal answered
            answered += 1
            return answer if answered % 2 else end_after_one(answer, context)

        fake.spoil["renewal"] = once
        await passed(3.0)
        assert fake.calls["KeepAlive"] <= 20


@pytest.mark.parametrize("how", ["cancelled", "broken"])
async def test_what_renews_cannot_die(
    fake: FakeRegistry,
    registry: RegistryClient,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not by a stranger who cancels all tasks, nor by a mistake in it."""
    async with registry.register(player("p1"), ttl=3, drain=0) as registration:
        await eventually_async(lambda: fake.calls["renewal"] >= 1)
        ours = [task for task in asyncio.all_tasks() if task.get_name().startswith("registry-")]
        assert {"registry-renewals", "registry-registrations"} <= {task.get_name() for task in ours}
        if how == "cancelled":
            for task in ours:
                task.cancel()
        else:
            with monkeypatch.context() as patch:

                def broken(*_: object) -> float:
                    raise ZeroDivisionError

                patch.setattr("registry_client.lease.Leases.patience_s", broken)
                patch.setattr("registry_client.lease.Leases.wake_at", broken)
                third = asyncio.create_task(registry.register(player("p3", 8003), drain=0).start())
                await eventually_async(lambda: all(task.done() for task in ours))
            await third
        before = fake.calls["renewal"]
        await eventually_async(lambda: fake.calls["renewal"] >= before + 2)
        logged = [it for it in caplog.records if it.name == "registry_client.tasks" and it.levelname != "DEBUG"]
        assert len(logged) == 2
        assert all(bool(it.exc_info) == (how == "broken") for it in logged)
        async with registry.register(player("p2", 8002), drain=0, timeout=FINAL_S):
            assert registration.state is State.REGISTERED


# ---- looking up


def another(answer: pb.GetResponse, _: object) -> None:
    answer.instance.id = "p9"


def no_instance(answer: pb.GetResponse, _: object) -> None:
    answer.ClearField("instance")


@pytest.mark.parametrize("spoil", [another, no_instance])
async def test_an_answer_to_get_or_update_for_another_instance_is_refused(
    fake: FakeRegistry, registry: RegistryClient, spoil: Callable[..., None]
) -> None:
    async with registry.register(player("p1"), drain=0):
        fake.spoil |= {"Get": spoil, "Update": spoil}
        with pytest.raises(InvalidAnswer):
            await registry.get("player", "p1")
        with pytest.raises(InvalidAnswer):
            await registry.update("player", "p1", weight=1)


@pytest.mark.parametrize("spoil", [another, no_instance, fail(grpc.StatusCode.INTERNAL), silent])
async def test_a_look_up_that_is_answered_with_nonsense_changes_nothing(
    fake: FakeRegistry, registry: RegistryClient, spoil: Callable[..., object]
) -> None:
    async with registry.register(player("p1"), ttl=3, drain=0) as registration:
        fake.spoil |= {"renewal": short, "Get": spoil}
        await eventually_async(lambda: fake.calls["Get"] >= 1)
        await passed(1.0)
        assert registration.state is State.DOUBTED
        assert registration.invisible_for is not None
        assert fake.calls["Register"] == 1
        fake.spoil.clear()
        await eventually_async(lambda: registration.state is State.REGISTERED)


# ---- lists


def endless(make_names: Callable[[int], list[str]], token: Callable[[int], str]) -> Callable[..., None]:
    count = 0

    def spoil(answer: pb.ListResponse | pb.ListServicesResponse, _: object) -> None:
        nonlocal count
        count += 1
        for name in make_names(count):
            if isinstance(answer, pb.ListResponse):
                answer.instances.add(service="player", id=name, host="h", port=1)
            else:
                answer.services.add(service=name)
        answer.next_page_token = token(count)

    return spoil


ENDLESS = {
    "the same page": endless(lambda _: ["a"], lambda _: "t"),
    "empty pages": endless(lambda _: [], str),
    "going back": endless(lambda n: [f"{9 - n}"], str),
    "ever more": endless(lambda n: [f"{n:06}-{i:04}" for i in range(100)], str),
    "a token of a megabyte": endless(lambda n: [f"{n:06}"], lambda _: "t" * 1_000_000),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_list_without_end_is_refused(
    fake: FakeRegistry, registry: RegistryClient, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_LISTED", 1_000)
    fake.spoil |= {"List": ENDLESS[what], "ListServices": ENDLESS[what]}
    asks: list[Callable[[], object]] = [lambda: registry.list("player"), registry.services]
    for ask in asks:
        with pytest.raises(InvalidAnswer):
            await asyncio.wait_for(ask(), FINAL_S)  # type: ignore[arg-type]
    assert fake.calls["List"] + fake.calls["ListServices"] <= 25


async def test_a_message_too_large_is_refused(fake: FakeRegistry, registry: RegistryClient) -> None:
    def spoil(answer: pb.ListResponse, _: object) -> None:
        answer.instances.add(service="player", id="a", host="h", port=1, metadata={"k": "v" * 5_000_000})

    fake.spoil["List"] = spoil
    with pytest.raises(RegistryError, match="larger than max"):
        await registry.list("player")


# ---- what is no registry


@contextlib.asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[str]:
    """A port that says something and hangs up."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_another_address_is_asked_when_one_is_no_registry(server: RegistryServer) -> None:
    """Something else listens there now, or a broken server: as good as down."""
    broken = FakeRegistry(spoil=dict.fromkeys(("Register", "List", "KeepAlive"), fail(grpc.StatusCode.UNIMPLEMENTED)))
    async with serving(broken) as other, listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as web, listening(b"") as mute:
        for address in (other, web, mute, nobody_there()):
            for _ in range(3):  # each client begins at an address of its own choice
                async with (
                    registry_client.connect([address, server.address], cache_dir=None) as client,
                    client.register(player("p1"), ttl=2, drain=0, timeout=FINAL_S) as registration,
                ):
                    assert [it.id for it in await client.list("player")] == ["p1"]
                    assert registration.state is State.REGISTERED


async def test_a_registry_that_says_no_to_what_is_not_asked_again_is_heard(
    fake: FakeRegistry, registry: RegistryClient
) -> None:
    fake.spoil["Deregister"] = fail(grpc.StatusCode.NOT_FOUND, "no such instance")
    with pytest.raises(NotFound):
        await registry.deregister("player", "p1")
    assert fake.calls["Deregister"] == 1
