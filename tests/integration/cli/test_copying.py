"""`registryctl export`, `import` and `sync`, between real registries."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import registry_client
from registry_api.limits import MAX_LABEL_BYTES
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import HealthCheck, Instance, RegistryClient, Retries, TrafficPolicy, testing
from registry_client.cli import copying
from registry_client.cli.copying import Copied
from registry_client.cli.options import Common
from registry_client.copies import MARK, copy_of
from registry_client.instance import Key
from registry_client.policy_copies import Of, PolicyCopies, Scope, due
from registry_client.syncing import Syncing
from registry_server.config import Config
from registry_server.server import serve
from tests.conftest import ServerFactory
from tests.integration.client.conftest import player
from tests.support.access import granted, token
from tests.support.fake_registry import FakeRegistry, serving
from tests.support.registryctl import ctl, ended, line_of, running
from tests.support.waiting import eventually_async


@pytest.fixture
def two() -> Iterator[tuple[str, str]]:
    with testing.registry() as one, testing.registry() as other:
        yield one, other


@pytest.fixture
async def clients(two: tuple[str, str]) -> AsyncIterator[tuple[RegistryClient, RegistryClient]]:
    async with (
        registry_client.connect(two[0], cache_dir=None) as one,
        registry_client.connect(two[1], cache_dir=None) as other,
    ):
        yield one, other


async def names(registry: RegistryClient, service: str = "player") -> list[str]:
    return [it.id for it in await registry.list(service)]


# ---- export and import

FIELDS = {"weight": 3, "tags": ["eu"], "metadata": {"map": "dust"}, "version": "2.0"}


async def test_what_was_exported_is_imported_once(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], tmp_path: Path
) -> None:
    one, other = clients
    path = tmp_path / "all.jsonl"
    checked = Instance("shop", "10.0.0.5", 9000, "s", checks=[HealthCheck.ttl(interval=60)])
    async with one.register(player("a", **FIELDS), ttl=40), one.register(checked):
        await one.check_rules.put("chat", [HealthCheck.tcp()])
        exported = await ctl("-s", two[0], "export")
    assert exported.exit_code == 0, exported.output
    assert len(exported.stdout.splitlines()) == 4
    path.write_text(exported.stdout)
    done = await ctl("-s", two[1], "import", str(path))
    assert (done.exit_code, done.stdout) == (0, "3 imported, 0 unchanged, 0 kept out\n"), done.output
    [it] = await other.list("player")
    assert (it.id, it.weight, it.tags, dict(it.metadata), it.version) == ("a", 3, ("eu",), {"map": "dust"}, "2.0")
    assert it.ttl_s == 40.0
    assert [check.kind for it in await other.list("shop") for check in it.checks] == ["ttl"]
    [rule] = await other.check_rules.list()
    assert (rule.service, rule.namespace) == ("chat", "default")
    again = await ctl("-s", two[1], "-o", "json", "import", str(path))
    assert json.loads(again.stdout) == {"imported": 0, "unchanged": 3, "keptOut": 0}


async def test_nobody_who_is_there_loses_his_place(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], tmp_path: Path
) -> None:
    one, other = clients
    async with one.register(player("a")), one.register(player("b", 8002)), one.register(player("c", 8003)):
        exported = (await ctl("-s", two[0], "export", "player")).stdout
    path = tmp_path / "players.jsonl"
    path.write_text(exported)
    async with other.register(player("a", weight=7)) as owner, other.register(player("x", 8002)):
        done = await ctl("-s", two[1], "import", str(path))
        assert done.exit_code == 1
        assert done.stdout == "1 imported, 0 unchanged, 2 kept out\n"
        assert "default/player/a is kept out: it is registered there, and differs" in done.stderr
        assert "default/player/b is kept out: default/player/x has its address there" in done.stderr
        assert await names(other) == ["a", "c", "x"]
        assert (await other.get("player", "a")).generation == owner.instance.generation


async def test_an_owner_who_comes_while_others_are_imported_keeps_his_place(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, other = clients
    monkeypatch.setattr(copying, "WRITERS", 1)
    importing = copying.Importing(Common(server=two[1]), None, hold=False)
    owners = [player("b", 8002, namespace="default"), player("new-id", 8003, namespace="default")]
    register_once, registrations = RegistryClient.register_once, []

    async def register(self: RegistryClient, instance: Instance, ttl: float | None = None) -> Instance:
        for owner in owners if not registrations else ():
            registrations.append(await other.register(owner, drain=0).start())
            await eventually_async(lambda key=owner.key: key in importing._come)  # type: ignore[misc]
        return await register_once(self, instance, ttl)

    monkeypatch.setattr(RegistryClient, "register_once", register)
    await importing.run([player(name, 8000 + n, namespace="default") for n, name in enumerate("abc", 1)])
    assert (importing.imported, importing.kept_out) == (1, 2)
    assert await names(other) == ["a", "b", "new-id"]
    assert [it.instance.generation for it in registrations] == [
        (await other.get("player", it.id)).generation for it in owners
    ]


async def test_nothing_is_imported_of_what_cannot_be_read(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], tmp_path: Path
) -> None:
    path = tmp_path / "broken.jsonl"
    good = '{"instance": {"id": "a", "service": "player", "host": "10.0.0.5", "port": 8001}}\n'
    path.write_bytes(good.encode() + b"\n{\n" + b"x" * (3 << 20) + b"\n" + good.replace("8001", "80010").encode())
    done = await ctl("-s", two[1], "import", str(path))
    assert (done.exit_code, done.stdout) == (1, "")
    told = done.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["line 3", "line 4", "line 5", "nothing was imported"]
    assert await names(clients[1]) == []


async def test_held_until_the_owners_come(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], tmp_path: Path
) -> None:
    one, other = clients
    path = tmp_path / "players.jsonl"
    async with one.register(player("a"), ttl=2), one.register(player("b", 8002), ttl=2):
        path.write_text((await ctl("-s", two[0], "export")).stdout)
    with running("-s", two[1], "import", str(path), "--hold") as process:
        assert await line_of(process) == "2 imported, 0 unchanged, 0 kept out\n"
        async with other.register(player("a", weight=7), drain=0):  # its owner comes
            process.send_signal(signal.SIGINT)
            assert (await ended(process))[0] == 0
            assert await names(other) == ["a"]


async def test_one_that_cannot_be_written_leaves_out_nobody_else() -> None:
    """A registry shows what no client of this version would register."""
    fake = FakeRegistry()
    for name, tags in (("a", ()), ("odd", ("x", "x")), ("z", ())):
        fake.store.instances[name] = pb.Instance(service="player", host="10.0.0.5", port=8001, id=name, tags=tags)
    async with serving(fake) as address:
        done = await ctl("-s", address, "export", "player")
    assert done.exit_code == 1
    assert [json.loads(it)["instance"]["id"] for it in done.stdout.splitlines()[1:]] == ["a", "z"]
    assert done.stderr.startswith("registryctl: default/player/odd is left out: instance.tags: ")


async def test_no_service_is_not_every_service(two: tuple[str, str]) -> None:
    done = await ctl("-s", two[0], "export", "")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "registryctl: service: is required\n"


async def test_a_file_that_cannot_be_read() -> None:
    done = await ctl("import", "/proc/self/mem")
    assert done.exit_code == 1
    assert done.stderr.startswith("registryctl: nothing was imported: /proc/self/mem: cannot read: ")


async def test_a_registry_that_is_away(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("")
    for command in (("export",), ("import", str(path)), ("import", str(tmp_path / "nothing"))):
        done = await ctl("-s", "127.0.0.1:1", "--timeout", "0.3", *command)
        assert done.exit_code == (2 if "nothing" in str(command) else 3), done.output


# ---- sync


@contextlib.asynccontextmanager
async def syncing(source: str, target: str, *more: str) -> AsyncIterator[None]:
    with running("-s", source, "sync", "--to", target, *more) as process:
        yield
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, 20)


async def test_copies_come_change_and_leave(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]
) -> None:
    one, other = clients

    async def copies() -> list[tuple[str, int, str]]:
        return [(it.id, it.weight, it.metadata.get(MARK, "")) for it in await other.list("player")]

    async def are(*expected: tuple[str, int]) -> None:
        wanted = [(name, weight, "here") for name, weight in expected]

        async def so() -> bool:
            return await copies() == wanted

        await eventually_async(so, timeout_s=20)

    async with one.register(player("a"), drain=0) as a:
        async with syncing(*two, "--name", "here", "player"):
            await are(("a", 100))
            async with one.register(player("b", 8002), drain=0):
                await are(("a", 100), ("b", 100))
                await a.update(weight=7, metadata={"map": "dust"})
                await are(("a", 7), ("b", 100))
            await are(("a", 7))
        assert await copies() == []  # with the command they leave


async def test_copies_of_every_namespace(two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]) -> None:
    one, other = clients
    of_both = [Key("default", "player", "a"), Key("prod", "player", "b")]

    async def are_there() -> bool:
        return [it.key for it in await other.list(all_namespaces=True)] == of_both

    async with one.register(player("a")), one.register(player("b", namespace="prod")), syncing(*two, "-A"):
        await eventually_async(are_there, timeout_s=20)


async def test_both_ways_there_is_no_echo(two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]) -> None:
    """And what its owner leaves is gone everywhere, for good."""
    one, other = clients

    async def are(here: list[str], there: list[str]) -> None:
        async def so() -> bool:
            return (await names(one), await names(other)) == (here, there)

        await eventually_async(so, timeout_s=20)

    async with syncing(two[0], two[1]), syncing(two[1], two[0]):
        async with one.register(player("a"), drain=0), other.register(player("b", 8002), drain=0):
            await are(["a", "b"], ["a", "b"])
            assert MARK not in (await one.get("player", "a")).metadata
            assert MARK not in (await other.get("player", "b")).metadata
        await are([], [])


async def test_a_second_one_takes_over_and_the_first_stands_by(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]
) -> None:
    one, other = clients
    async with one.register(player("a"), drain=0), syncing(*two):
        await eventually_async(lambda: names(other))
        first = (await other.get("player", "a")).generation
        async with syncing(*two):

            async def taken_over() -> bool:
                return (await other.get("player", "a")).generation != first

            await eventually_async(taken_over, timeout_s=20)
            second = (await other.get("player", "a")).generation
        await eventually_async(lambda: names(other), timeout_s=20)  # the first has it again
        assert (await other.get("player", "a")).generation != second


async def test_nobodys_place_is_taken(two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]) -> None:
    one, other = clients
    async with one.register(player("a")), other.register(player("a", weight=7), drain=0) as owner:
        with running("-s", two[0], "sync", "--to", two[1]) as process:
            assert process.stderr is not None
            said = await asyncio.to_thread(process.stderr.readline)
            assert said == "registryctl: default/player/a is kept out: one of that name is registered there\n"
            assert (await other.get("player", "a")).generation == owner.instance.generation
            await owner.aclose()

            async def is_a_copy() -> bool:
                return any(MARK in it.metadata for it in await other.list("player"))

            await eventually_async(is_a_copy, timeout_s=20)


async def test_who_comes_while_a_copy_is_on_its_way_keeps_his_place(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]
) -> None:
    """What was seen there is old by the time that the copy gets there."""
    one, other = clients
    said: dict[Key, str] = {}

    class Told:
        def done(self, what: str, instance: Instance) -> None:
            raise AssertionError(what)

        def policy(self, what: str, of: Of) -> None:
            raise AssertionError(what)

        def kept_out(self, what: object, why: str) -> None:
            assert isinstance(what, Key)
            said[what] = why

    syncing = Syncing(one, other, "here", 15.0, Told())
    copies = [copy_of(player(name, port, namespace="default"), "here") for name, port in (("a", 8001), ("b", 8002))]
    seen = await other.register_once(copies[1])
    async with (
        registry_client.connect(two[1], cache_dir=None) as third,
        third.register(player("a", weight=7), drain=0),
        third.register(player("b", 9002), drain=0),
    ):
        before = [(it.id, it.generation) for it in await other.list("player")]
        await syncing._begin(copies[0], None)
        await syncing._begin(copies[1], seen)
        assert [(it.id, it.generation) for it in await other.list("player")] == before
        assert sorted(it.id for it in said) == ["a", "b"]


async def test_one_that_cannot_be_copied_keeps_nobody_else_out(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]
) -> None:
    one, other = clients
    full = player("full", 8002, metadata={"k": "v" * (MAX_LABEL_BYTES - 1)})
    async with one.register(full), one.register(player("a")):
        with running("-s", two[0], "sync", "--to", two[1]) as process:
            assert await line_of(process) == "+ default/player/a 10.0.0.5:8001\n"
            assert process.stderr is not None
            said = await asyncio.to_thread(process.stderr.readline)
            assert said.startswith("registryctl: default/player/full is kept out: of a copy, instance.metadata: ")
            assert await names(other) == ["a"]


async def test_the_same_registry_is_told(two: tuple[str, str]) -> None:
    for target in (two[0], two[0].replace("127.0.0.1", "localhost")):
        done = await ctl("-s", two[0], "sync", "--to", target)
        assert done.exit_code == 1, done.output
        assert "another registry" in done.stderr or "both are the same registry" in done.stderr
    assert (await ctl("-s", two[0], "sync")).exit_code == 2


# ---- traffic policies

PLAYER = TrafficPolicy("player", "default", timeout=2, retries=Retries(3), split={"version=2.0": 10, "rest": 90})
CHAT = TrafficPolicy("chat", "prod", balancing="RING_HASH", hash_header="room")


async def policies(registry: RegistryClient) -> list[TrafficPolicy]:
    return [*await registry.policy.list(all_namespaces=True)]


async def test_policies_are_exported_and_imported(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], tmp_path: Path
) -> None:
    """As they are, once; and those that are there stay."""
    one, other = clients
    path = tmp_path / "all.jsonl"
    set_ = [await one.policy.put(CHAT), await one.policy.put(PLAYER)]
    for args, number in ((("--all-namespaces",), 2), ((), 1), (("player",), 1), (("chat",), 0)):
        exported = await ctl("-s", two[0], "export", *args)
        assert exported.stdout.count('{"policy":') == number, args
    path.write_text((await ctl("-s", two[0], "export", "--all-namespaces")).stdout)
    for said in ("2 imported, 0 unchanged, 0 kept out\n", "0 imported, 2 unchanged, 0 kept out\n"):
        imported = await ctl("-s", two[1], "import", str(path))
        assert (imported.exit_code, imported.stdout, imported.stderr) == (0, said, "")
    assert sorted(await policies(other), key=lambda it: it.service) == set_
    await other.policy.put(TrafficPolicy("chat", "prod", timeout=9))
    imported = await ctl("-s", two[1], "import", str(path))
    assert imported.exit_code == 1
    assert "the policy of prod/chat is kept out: there is another one" in imported.output
    assert (await other.policy.get("chat", namespace="prod")).timeout == 9


@pytest.mark.parametrize(
    "line",
    [
        '{"policy": {"timeout": "2s"}}',
        '{"policy": {"service": "a/b"}}',
        '{"policy": {"service": "a", "timeout": "soon"}}',
        '{"policy": {"service": "a", "split": [{"version": "1", "weight": -1}]}}',
        '{"policy": []}',
        '{"policy": "a"}',
        '{"policies": {}}',
    ],
)
async def test_a_line_that_is_no_policy(line: str, two: tuple[str, str], tmp_path: Path) -> None:
    (path := tmp_path / "bad.jsonl").write_text(line)
    imported = await ctl("-s", two[0], "import", str(path))
    assert imported.exit_code == 1
    assert "line 1: " in imported.output
    assert "nothing was imported" in imported.output


async def test_what_the_registry_refuses_keeps_nothing_else_out(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient], tmp_path: Path
) -> None:
    (path := tmp_path / "all.jsonl").write_text(
        '{"policy": {"service": "chat", "hashHeader": "room"}}\n{"policy": {"service": "player", "timeout": "2s"}}\n'
    )
    imported = await ctl("-s", two[1], "import", str(path))
    assert imported.exit_code == 1
    assert "1 imported, 0 unchanged, 1 kept out" in imported.output
    assert [it.service for it in await policies(clients[1])] == ["player"]


async def test_policies_are_kept_up(two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]) -> None:
    """Both ways at once; and what somebody sets there by hand stays."""
    one, other = clients

    async def are(*wanted: tuple[str, float | None]) -> None:
        async def so() -> bool:
            found = [[(it.service, it.timeout) for it in await policies(registry)] for registry in clients]
            return found == [[*wanted], [*wanted]]

        await eventually_async(so, timeout_s=20)

    async with syncing(two[0], two[1]), syncing(two[1], two[0]):
        await one.policy.put(TrafficPolicy("player", timeout=2))
        await are(("player", 2))
        await other.policy.put(TrafficPolicy("chat", timeout=3))
        await are(("chat", 3), ("player", 2))
        await other.policy.put(TrafficPolicy("player", timeout=4))
        await are(("chat", 3), ("player", 4))
        await one.policy.delete("chat")
        await are(("player", 4))
    await are(("player", 4))  # they outlive the command


async def test_a_source_that_lost_its_policies_takes_none_away(
    server_factory: ServerFactory, clients: tuple[RegistryClient, RegistryClient]
) -> None:
    """Who deletes them does: one that came back without its memory knows of none."""
    server, (_, other) = await server_factory().start_async(), clients
    async with registry_client.connect(server.address, cache_dir=None) as source:
        copies = PolicyCopies(source, other, Scope((), "default", False), Copied(Common()))
        kept = await source.policy.put(PLAYER)
        await copies.round()
        await server.restart_async()
        for _ in range(2):
            await copies.round()
        assert await policies(other) == [kept]
        await source.policy.put(PLAYER)
        await copies.round()
        await source.policy.delete("player")
        await copies.round()
        assert await policies(other) == []


def test_what_is_due_of_policies() -> None:
    here, newer, theirs = (TrafficPolicy("player", timeout=number) for number in (1, 2, 3))
    key = Of("default", "player")
    nothing: dict[Of, TrafficPolicy] = {}

    def of(
        wanted: TrafficPolicy | None, held: TrafficPolicy | None, there: TrafficPolicy | None
    ) -> tuple[list[Of], list[Of], list[Of], list[Of]]:
        found = due(*({} if it is None else {key: it} for it in (wanted, held, there)))
        return found.put, found.delete, found.adopt, [*found.kept_out]

    put, delete, adopt, kept_out = ([key], [], [], []), ([], [key], [], []), ([], [], [key], []), ([], [], [], [key])
    assert of(here, None, None) == put
    assert of(newer, here, here) == put
    assert of(here, None, here) == of(here, here, here) == of(newer, here, newer) == adopt
    assert of(None, here, here) == delete
    assert of(here, None, theirs) == of(here, here, theirs) == of(here, here, None) == kept_out
    assert of(None, here, theirs) == of(None, here, None) == of(None, None, theirs) == ([], [], [], [])
    assert due(nothing, nothing, nothing).put == []


async def test_policies_that_may_not_be_set_are_told_of_and_the_rest_is_copied(
    two: tuple[str, str], clients: tuple[RegistryClient, RegistryClient]
) -> None:
    """Once: what is refused is refused again."""
    one, _ = clients
    config = Config(listen="127.0.0.1:0", admin="off", access=granted())
    async with serve(config) as guarded, one.register(player("a"), drain=0):
        await one.policy.put(PLAYER)
        with running("-s", two[0], "sync", "--to", guarded, REGISTRY_TOKEN=token("owner")) as process:
            assert process.stderr is not None
            said = await asyncio.to_thread(process.stderr.readline)
            assert "the policy of default/player is kept out: " in said
            async with registry_client.connect(guarded, token=token("root"), cache_dir=None) as there:
                await eventually_async(lambda: names(there), timeout_s=20)
                assert await policies(there) == []
