"""A server that others reach starts only if somebody said who may do what; what tells of the server itself; the command
that makes tokens; certificates as identities."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2
from grpc_reflection.v1alpha import reflection_pb2

from registry_api.registry.v1 import access_pb2
from registry_client import sync
from registry_client.cli import main
from registry_server.access.grants import Grant, Grants
from registry_server.access.identities import Access, Identity, Token
from registry_server.config import Config, ConfigError
from registry_server.config.values import is_loopback
from registry_server.server import serve
from tests.conftest import ServerFactory
from tests.support.access import Asked, asking, file_of, granted
from tests.support.grpcurl import grpcurl
from tests.support.registryctl import runner
from tests.support.servers import NO_PAGE, ROOT, RegistryServer
from tests.support.tls import Authority
from tests.support.transports import FLAGS

WHO_AM_I = "/registry.v1.Access/WhoAmI"
REFLECT, CHANNELZ = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.channelz.v1.Channelz/GetServers"
LIST = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
BEYOND = ["0.0.0.0", "", "*", "[::]", "192.0.2.1", "[::ffff:192.0.2.1]", "myhost.example"]


def run(*args: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "registry_server", *args],
        cwd=ROOT,
        env={**os.environ, **NO_PAGE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("host", BEYOND)
def test_beyond_this_machine(host: str) -> None:
    config = Config(listen=f"127.0.0.1:0,{host}:0")
    problem = str(config.unguarded())
    assert "[access]" in problem
    assert "--insecure" in problem
    assert "\n" not in problem
    assert Config(listen=f"{host}:0", insecure=True).unguarded() is None
    assert Config(listen=f"{host}:0", access=granted()).unguarded() is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "[::ffff:127.0.0.1]:1", "localhost:0", "unix:/tmp/x"]
)
def test_on_this_machine_nobody_needs_to_say(address: str) -> None:
    assert is_loopback(address)
    assert Config(listen=address).unguarded() is None


async def test_a_server_that_others_reach_does_not_start_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"listen: 0\.0\.0\.0:0 is open to other machines.*\[access\].*--insecure"):
        async with serve(Config(listen="0.0.0.0:0")):
            raise AssertionError("it serves")


def test_the_command_says_both_ways_in_one_line(tmp_path: Path) -> None:
    said = run("--listen", "0.0.0.0:0", code=2)
    assert said.count("\n") == 1
    assert "[access]" in said
    assert "--insecure" in said
    (path := tmp_path / "registry.toml").write_text("listen = '0.0.0.0:0'\n")
    assert "line 1" in run("config", "check", str(path), code=2)
    path.write_text("listen = '0.0.0.0:0'\ninsecure = true\n")
    assert "ok" in run("config", "check", str(path))
    path.write_text("listen = '0.0.0.0:0'\n" + file_of())
    assert "ok" in run("config", "check", str(path))
    shown = run("--config", str(path), "config", "show")
    assert 'access.identities.reader.grants = "read default/player"' in shown
    assert "sha256:" not in shown


@pytest.mark.parametrize("how", ["--insecure", "REGISTRY_INSECURE"])
def test_it_starts_when_it_is_told_to(server_factory: ServerFactory, how: str) -> None:
    given: Any = {"args": ("--insecure",)} if how == "--insecure" else {"env": {how: "yes"}}
    server = server_factory(**given)
    server.host = "0.0.0.0"
    server.start()
    refused = grpcurl(f"127.0.0.1:{server.port}", "registry.v1.Registry/List", {})
    assert refused.code, "reflection does not answer everybody there"
    assert "does not support the reflection API" in refused.err


@pytest.mark.parametrize(("listen", "warned"), [("0.0.0.0:0", True), ("127.0.0.1:0", False)])
async def test_tokens_that_travel_in_the_clear_are_told_of(
    listen: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking("http2", granted(), listen=listen):
        assert ("sent to this server in the clear" in caplog.text) is warned


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_tokens_that_travel_in_the_clear_by_http_are_told_of(host: str, caplog: pytest.LogCaptureFixture) -> None:
    async with asking("http2", granted(), admin=f"{host}:0"):
        assert ("in the clear: there is no TLS for --admin" in caplog.text) is (host == "0.0.0.0")


async def test_identities_that_nobody_can_show_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = [Identity("both", (Token.of("x"),), ("a.example",)), Identity("game", (), ("game.example",))]
    async with asking("http2", Access(tuple(made))):
        pass
    said = "game: known by certificates alone, which nobody is asked for (--tls-client-ca)"
    assert [it for it in caplog.messages if "certificates" in it] == [said]
    caplog.clear()
    files, ca = Authority().pair("localhost").write(tmp_path), Authority().write(tmp_path)
    tls = {"tls_cert": str(files.cert), "tls_key": str(files.key), "tls_client_ca": str(ca)}
    async with asking("http2", Access(tuple(made)), **tls):
        pass
    assert "certificates" not in caplog.text


# ---- what tells of the server itself


async def answers(server: Asked, who: str) -> set[str]:
    """Which of both answer somebody."""
    found = set()
    try:
        talk = server.talk(REFLECT, who, [LIST])
        if await talk.read() is not grpc.aio.EOF:
            found.add("reflection")
        talk.cancel()
    except grpc.aio.AioRpcError as error:
        found.add(error.code().name)
    try:
        await server.ask(CHANNELZ, channelz_pb2.GetServersRequest(), who)
        found.add("channelz")
    except grpc.aio.AioRpcError as error:
        found.add(error.code().name)
    return found


@pytest.mark.parametrize(
    ("settings", "who", "expected"),
    [
        ({}, "", {"reflection", "channelz"}),
        ({"introspection": "off"}, "root", {"UNIMPLEMENTED"}),
        ({"listen": "0.0.0.0:0"}, "", {"UNAUTHENTICATED"}),
        ({"listen": "0.0.0.0:0"}, "nothing", {"PERMISSION_DENIED"}),
        ({"listen": "0.0.0.0:0"}, "reader", {"reflection", "PERMISSION_DENIED"}),
        ({"listen": "0.0.0.0:0"}, "root", {"reflection", "channelz"}),
        ({"listen": "0.0.0.0:0", "introspection": "on"}, "", {"reflection", "channelz"}),
        ({"listen": "0.0.0.0:0", "introspection": "off"}, "root", {"UNIMPLEMENTED"}),
    ],
)
async def test_who_is_told_of_the_server_itself(settings: dict[str, str], who: str, expected: set[str]) -> None:
    async with asking("grpc", granted(), **settings) as server:
        assert await answers(server, who) == expected


# ---- tokens and certificates


@pytest.mark.parametrize("transport", FLAGS)
def test_a_new_token_lets_its_holder_in(server_factory: ServerFactory, tmp_path: Path, transport: str) -> None:
    made = run(
        "token", "new", "game-servers", "--grant", "register default/player", "--grant", "read */*", "--days", "30"
    )
    token, _, lines = made.partition("\n")
    assert re.fullmatch(r"rg_[\w-]{43}", token)
    assert token not in lines
    (path := tmp_path / "access.toml").write_text(lines)
    assert [*tomllib.loads(lines)["access"]["identities"]] == ["game-servers"]
    server = server_factory(args=("--access-file", str(path), *FLAGS[transport])).start()
    said = grpcurl(
        server.address, "registry.v1.Access/WhoAmI", {}, flags=("-H", f"authorization: Bearer {token}")
    ).message
    assert said["identity"] == "game-servers"
    assert said["grants"] == ["read */*", "register default/player"]
    assert said["expires"]
    assert token not in server.log_text
    asked = ("--server", server.address, "--token", token)
    said = runner().invoke(main, ["whoami", *asked])
    assert said.exit_code == 0, said.stderr
    name, *may = said.stdout.splitlines()
    assert name.startswith("game-servers, until 20")
    assert may == ["may read */*", "may register default/player"]
    document = json.loads(runner().invoke(main, ["whoami", "-o", "json", *asked]).stdout)
    assert (document["identity"], document["asks"]) == ("game-servers", True)
    refused = runner().invoke(main, ["whoami", "--server", server.address, "--token", "wrong"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "this token is not known here" in refused.stderr
    assert runner().invoke(main, ["whoami", "--server", server.address]).stdout == (
        "nobody that the registry knows\nmay do nothing\n"
    )


def test_who_one_is_where_nobody_is_asked(registry_server: RegistryServer) -> None:
    said = runner().invoke(main, ["whoami", "--server", registry_server.address])
    assert said.stdout == "the registry asks nobody: everybody may do everything\n"
    with sync.connect(registry_server.address) as registry:
        who = registry.whoami()
    assert (who.asks, who.identity, who.grants, who.expires) == (False, "", ("admin */*",), None)


def test_no_such_token() -> None:
    assert "NAME must be" in run("token", "new", "a b", code=2)
    assert "--grant must be RIGHT" in run("token", "new", "a", "--grant", "reed */*", code=2)
    made = run("token", "new", "a.b")
    assert '[access.identities."a.b"]' in made
    assert run("token", "new", "a.b").partition("\n")[0] != made.partition("\n")[0]


@pytest.mark.parametrize("transport", FLAGS)
async def test_a_certificate_is_an_identity(tmp_path: Path, transport: str) -> None:
    authority = Authority()
    files = authority.pair("localhost").write(tmp_path)
    read = Grants([Grant.parse("read */*")])
    game = Identity("game", (Token.of("secret"),), ("spiffe://example/game/*",), read)
    config = Config(
        listen="localhost:0",
        transport=transport,
        access=Access((game,)),
        tls_cert=str(files.cert),
        tls_key=str(files.key),
        tls_client_ca=str(authority.write(tmp_path)),
    )
    async with serve(config) as address:
        for name, identity in (("spiffe://example/game/7", "game"), ("spiffe://example/chat", "")):
            shown = authority.pair(name)
            credentials = grpc.ssl_channel_credentials(authority.pem, shown.key, shown.cert)
            async with grpc.aio.secure_channel(address, credentials) as channel:
                server = Asked(address, channel)
                said = access_pb2.WhoAmIResponse.FromString(await server.ask(WHO_AM_I, access_pb2.WhoAmIRequest()))
            assert (said.identity, list(said.names)) == (identity, [name])
