"""Settings: flags over the environment over the file over the defaults, and every mistake names its setting."""

import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry_server.config import Config, ConfigError, ServiceDefaults, sources
from registry_server.config.commands import _toml
from registry_server.config.sources import ENV_PREFIX
from registry_server.stores import mirror_of
from registry_server.transport.limits import Limits
from tests.support.tls import Authority


def load(flags: dict[str, Any], env: dict[str, str], file: Path | None) -> Config:
    return sources.load(flags, env, file).config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "registry.toml"
    path.write_text('listen = "127.0.0.1:1111"\nlog_format = "json"\nlog_level = "debug"\n')
    return path


def test_defaults() -> None:
    assert load({}, {}, None) == Config("127.0.0.1:7400", "memory:", "http2", "600", "text", "info")


def test_order_of_the_sources(file: Path) -> None:
    flags = {"listen": "127.0.0.1:3333", "log_level": None}
    env = {"REGISTRY_LISTEN": "127.0.0.1:2222", "REGISTRY_LOG_LEVEL": "error", "LISTEN": "x", "REGISTRY_OTHER": "y"}
    config = load(flags, env, file)
    assert config == Config(listen="127.0.0.1:3333", store="memory:", log_format="json", log_level="error")
    assert load({}, env, file).listen == "127.0.0.1:2222"
    assert load({}, {}, file).listen == "127.0.0.1:1111"


def test_the_environment_can_name_the_file(file: Path, tmp_path: Path) -> None:
    env = {"REGISTRY_CONFIG": str(file), "REGISTRY_LOG_LEVEL": "error"}
    assert load({}, env, None) == Config("127.0.0.1:1111", log_format="json", log_level="error")
    other = tmp_path / "other.toml"
    other.write_text('listen = "127.0.0.1:2222"\n')
    assert load({}, env, other).listen == "127.0.0.1:2222", "the flag wins"
    assert load({}, {"REGISTRY_CONFIG": ""}, None) == Config(), "empty is not set"
    with pytest.raises(ConfigError, match=r"No such file or directory \(.*none.toml\)"):
        load({}, {"REGISTRY_CONFIG": str(tmp_path / "none.toml")}, None)


NAMES = ["listen", "store", "transport", "log_format", "log_level"]
NAMES += ["checks", "service_checks", "check_local", "check_ca", "check_concurrency", "cut_off_share", "cut_off_least"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_every_mistake_names_its_setting(name: str, source: str, tmp_path: Path) -> None:
    flags, env, path = {}, {}, None
    if source == "flag":
        flags = {name: "no such thing"}
    elif source == "environment":
        env = {ENV_PREFIX + name.upper(): "no such thing"}
    else:
        path = tmp_path / "registry.toml"
        path.write_text(f'{name} = "no such thing"')
    where = {"flag": "--" + name.replace("_", "-"), "environment": ENV_PREFIX + name.upper(), "file": f"{path}, line 1"}
    with pytest.raises(ConfigError, match=f"^{name}: .*" + ("" if name == "store" else "no such thing")) as error:
        load(flags, env, path)
    assert str(error.value).endswith(f" ({where[source]})")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:0",
        "localhost:7400",
        ":7400",
        "*:7400",
        "[::1]:7400",
        "[::]:0",
        "[fe80::1%eth0]:1",
        "0.0.0.0:65535",
        "a-b.example:1",
        "unix:/run/registry.sock",
        "unix:///run/registry.sock",
        "unix:registry.sock",
        "127.0.0.1:7400,unix:/run/registry.sock,[::1]:7400",
    ],
)
def test_addresses_to_listen_on(listen: str) -> None:
    assert Config(listen=listen).listen == listen


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "7400",
        "localhost",
        "localhost:",
        "localhost:http",
        "::1:7400",
        "h:65536",
        "h:-1",
        "h:1:2",
        "a b:1",
        "**:1",
        "a*b:1",
        "*.example:1",
        "[]:1",
        "[::g]:1",
        "[127.0.0.1]:1",
        "[:::]:1",
        "[::1:1",
        "::1]:1",
        ":٧٤٠٠",
        "unix:",
        "unix://host/path",
        "unix:/a\0b",
        "unix:/a\nb",
        "unix:/a\udcffb",
        "h:1,",
        "h:1,,h:2",
        ",h:1",
    ],
)
def test_addresses_nobody_can_listen_on(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"^listen: must be HOST:PORT"):
        Config(listen=listen)


@pytest.mark.parametrize("mode", ["", "77", "0600", "888", "rw", "-600", "٦٠٠"])
def test_modes_no_file_has(mode: str) -> None:
    with pytest.raises(ConfigError, match=r"^socket_mode: must be three digits"):
        Config(socket_mode=mode)


def test_addresses_as_they_are_shown() -> None:
    listen = "127.0.0.1:1,[::1]:1,:1,*:1,unix:a/b,unix:/a,unix:///a"
    shown = ("127.0.0.1:1", "[::1]:1", "0.0.0.0:1", "0.0.0.0:1", "unix:a/b", "unix:/a", "unix:/a")
    assert Config(listen=listen).addresses == shown


@pytest.mark.parametrize(
    "url",
    ["", "memory", "memory:x", "memory://", "redis://localhost", "etcd:", "etcd://", "etcd://h:99999", "etcd://h:x"],
)
def test_store_urls_with_a_mistake(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^store: ") as error:
        Config(store=url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["etcd://h", "etcd://h1,h2:2379,h3"])
def test_store_urls(url: str) -> None:
    assert Config(store=url).store == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listen = 7400", "listen: must be a string"),
        (
            "[server]\nlisten = 'x'",
            "server: no such setting; did you mean service?",
        ),
        ("lisen = '127.0.0.1:1'", "lisen: no such setting; did you mean listen?"),
        ("colour = 'red'", "colour: no such setting; there are listen, store, transport, "),
        ("listen = ", "not TOML"),
        ("listen = '1'\nlisten = '2'", "not TOML"),
    ],
)
def test_file_with_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load({}, {}, path)
    assert f"({path}" in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_limits_are_a_table_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("[limits]\nmax_streams = 7\nmax_age_s = 0\n")
    assert load({}, {}, path).limits == Limits(max_streams=7)
    assert load({}, {}, None).limits == Limits()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits = 7", "limits: must be a table"),
        ("[limits]\nmax_strems = 7", "limits.max_strems: no such limit; did you mean max_streams?"),
        ("[limits]\nmax_streams = 0", "limits.max_streams: must be a whole number from 1 to 2147483647"),
        ("[limits]\nmax_idle_s = -1", "limits.max_idle_s: must be a whole number from 0 to 2147483647"),
        ("[limits]\nmax_streams = true", "limits.max_streams: must be a whole number"),
        ("[limits]\nmax_streams = '9'", "limits.max_streams: must be a whole number"),
        ("[limits]\nmax_streams = 1.5", "limits.max_streams: must be a whole number"),
        (f"[limits]\nmax_streams = {2**31}", "limits.max_streams: must be a whole number"),
    ],
)
def test_limits_with_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    test_file_with_a_mistake(tmp_path, text, said)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not TOML"):
        load({}, {}, path)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file"):
        load({}, {}, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"Is a directory"):
        load({}, {}, tmp_path)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().listen = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    "flags",
    [{name: "etcd://me:hunter2@h"} for name in ("listen", "store", "transport", "log_format", "log_level")]
    + [{"store": "hunter2"}],
)
def test_a_store_url_in_the_wrong_place_is_not_told(flags: dict[str, str], tmp_path: Path) -> None:
    if flags.keys() != {"store"} or flags["store"] == "hunter2":
        with pytest.raises(ConfigError) as error:
            load(flags, {}, None)
        assert "hunter2" not in str(error.value)
    (path := tmp_path / "registry.toml").write_text('"etcd://me:hunter2@h" = "x"\n')
    for named in (path, tmp_path / "etcd://me:hunter2@h"):
        with pytest.raises(ConfigError) as error:
            load({}, {}, named)
        assert "hunter2" not in str(error.value)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for named in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="no regular file"):
            load({}, {}, named)
    with pytest.raises(ConfigError, match="Is a directory"):
        load({}, {}, tmp_path)


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "# " + "x" * 2_000_000, '"\\u001b[31m\\n" = "x"', "\xff"])
def test_a_file_that_makes_no_sense_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        load({}, {}, path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1_000


def test_repr_does_not_tell_the_store() -> None:
    assert "hunter2" not in repr(Config(store="etcd://me:hunter2@h"))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("player", "must be SERVICE=CHECK"),
        ("pl ayer=tcp", "must be SERVICE=CHECK"),
        ("player=htp:/x", "is no check"),
        ("player=tcp color=red", "is nothing of a check"),
        ("player=http interval=0", "player: [0].interval: must be 0.1 s to 3600 s"),
        ("player=tcp; player=tcp", "player: [1].name: tcp is the name of another check"),
    ],
)
def test_checks_with_a_mistake(rules: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^service_checks: ") as error:
        Config(service_checks=rules)
    assert said in str(error.value)


def test_checks_by_service() -> None:
    rules = Config(service_checks="player=http:/healthz interval=2; player=ttl\n*=tcp;").rules()
    assert {service: [check.name for check in checks] for service, checks in rules.items()} == {
        "player": ["http", "ttl"],
        "*": ["tcp"],
    }
    assert rules["player"][0].interval.seconds == 2


@pytest.mark.parametrize(
    ("name", "value"), [("cut_off_share", "1.5"), ("cut_off_least", "0"), ("check_concurrency", "nan")]
)
def test_numbers_are_within_bounds(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be a number"):
        load({name: value}, {}, None)


# ---- every source, every mistake


def test_all_mistakes_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(
        "# a comment\nlisten = 'x'\nlog_levl = 'info'\n\n[limits]\nmax_streams = 0\nmax_idle_s = -1\n"
        "[store]\ntype = 'etcd'\nendpoint = ['h']\n[service]\nttl = 'soon'\n"
    )
    with pytest.raises(ConfigError) as error:
        load({"log_format": "xml"}, {"REGISTRY_CHECKS": "maybe"}, path)
    told = {problem.name: problem for problem in error.value.problems}
    assert {name: problem.where.removeprefix(f"{path}, ") for name, problem in told.items()} == {
        "log_levl": "line 3",
        "limits.max_streams": "line 6",
        "limits.max_idle_s": "line 7",
        "store.endpoint": "line 10",
        "service.ttl": "line 12",
        "listen": "line 2",
        "log_format": "--log-format",
        "checks": "REGISTRY_CHECKS",
    }
    assert told["log_levl"].text == "no such setting; did you mean log_level?"
    assert told["store.endpoint"].text == "no such key; did you mean endpoints?"


@pytest.mark.parametrize(
    ("table", "url"),
    [
        ("type = 'memory'", "memory:"),
        (
            "type = 'etcd'\nendpoints = ['a:1', '[::1]:2']\nprefix = '/game/eu'",
            "etcd://a:1,[::1]:2?prefix=%2Fgame%2Feu",
        ),
        ("type = 'etcd'\nhost = 'a'\nport = 1", "etcd://a:1"),
        ("type = 'etcd'\nendpoints = ['https://a:1/', 'https://b:2']", "etcd://a:1,b:2?tls=true"),
        ("type = 'etcd'\nendpoints = 'a'\nuser = 'me'\npassword = 'p&%='", "etcd://a?user=me&password=p%26%25%3D"),
        ("type = 'etcd'\nhost = 'a'\ntls = false", "etcd://a?tls=false"),
        ("type = 'zookeeper'\nhost = 'a'\npath = '/game'", "zookeeper://a/game"),
        ("type = 'zookeeper'\nhost = 'a'\npath = 'game/eu'", "zookeeper://a/game/eu"),
        ("type = 'zookeeper'\nhost = 'a'\npath = '/my game?%'", "zookeeper://a/my%20game%3F%25"),
        ("type = 'sqlite'\npath = 'my 100%.db'", "sqlite:my 100%.db"),
    ],
)
def test_a_store_as_a_table(tmp_path: Path, table: str, url: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(f"[store]\n{table}\n")
    assert load({}, {}, path).store == url
    path.write_text("store = {" + table.replace("\n", ", ") + "}\n")
    assert load({}, {}, path).store == url


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "store: must have a type"),
        ("type = 7", "store.type: must be a string"),
        ("type = 'redis'", "store: store URL: there is no such kind of store; the URL must begin with one of memory:"),
        ("type = 'memory'\nhost = 'h'", "store: store URL: the embedded store takes no settings"),
        ("type = 'etcd'\nendpoints = []", "store.endpoints: must be a list of HOST:PORT"),
        ("type = 'etcd'\nendpoints = [7]", "store.endpoints: must be a list of HOST:PORT"),
        ("type = 'etcd'\nendpoints = {a = 1}", "store.endpoints: must be a list of HOST:PORT"),
        ("type = 'etcd'\nendpoints = ['http://a', 'https://b']", "store.endpoints: must all be HOST:PORT"),
        ("type = 'etcd'\nendpoints = ['a']\nport = 1", "store.endpoints: and host and port are two ways"),
        ("type = 'etcd'\nport = 1", "store.port: needs a host"),
        ("type = 'etcd'\nhost = 'h'\nport = '1'", "store.port: must be a number from 1 to 65535"),
        ("type = 'etcd'\nhost = 'h'\nport = true", "store.port: must be a number from 1 to 65535"),
        ("type = 'sqlite'\npath = '//registry.db'", "store: store URL: sqlite: has no host"),
        ("type = 'etcd'\nhost = 'h'\nprefix = ['x']", "store.prefix: must be a string, a number"),
        ("type = 'etcd'\nhost = 'h'\nuser = 'me'", "store: store URL: user needs a password"),
        ("type = 'etcd'\nhost = 'h'\npassword = 'env:NONE'", "store.password: env: there is no variable 'NONE'"),
        ("type = 'etcd'\nhost = 'h'\npassword = 'file:/none'", "store: store URL: "),
    ],
)
def test_a_table_of_a_store_with_a_mistake(tmp_path: Path, table: str, said: str) -> None:
    test_file_with_a_mistake(tmp_path, f"[store]\n{table}", said)


def test_secrets_by_their_place(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "registry.toml"
    secret.write_text("hunter2\n")
    path.write_text(f"[store]\ntype = 'etcd'\nhost = 'h'\nuser = 'me'\npassword = 'file:{secret}'\n")
    assert "hunter2" not in load({}, {}, path).store, "etcd's store reads it at each login"
    assert str(secret).replace("/", "%2F") in load({}, {}, path).store
    path.write_text("[store]\ntype = 'etcd'\nhost = 'h'\nuser = 'me'\npassword = 'env:PASSWORD'\n")
    assert load({}, {"PASSWORD": "hunter2"}, path).store == "etcd://h?user=me&password=hunter2"
    secret.write_text("etcd://me:hunter2@h\r\n")
    for flags, env in (
        ({"store": f"file:{secret}"}, {}),
        ({}, {"REGISTRY_STORE": "env:URL", "URL": "etcd://me:hunter2@h"}),
    ):
        assert load(flags, env, None).store == "etcd://me:hunter2@h"
    for store, said in (
        ("file:/none", "No such file"),
        ("env:NONE", "there is no variable 'NONE'"),
        ("file:", "directory"),
    ):
        with pytest.raises(ConfigError, match=f"^store: .*{said}.*--store"):
            load({"store": store}, {}, None)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.floats(0, 1e12))
@example('\x7f\t\r\n"\\\x1b')
@example(0.123456789)
@example(1234567.0)
def test_what_is_shown_is_toml_and_what_holds(value: object) -> None:
    assert tomllib.loads(f"it = {_toml(value)}")["it"] == value


def test_neighbours_by_their_place(tmp_path: Path) -> None:
    (secret := tmp_path / "secret").write_text("consul://h?token=hunter2\n")
    config = load({"neighbours": f"file:{secret} env:ZOOKEEPER"}, {"ZOOKEEPER": "zookeeper://z"}, None)
    assert config.neighbours == "consul://h?token=hunter2 zookeeper://z"
    with pytest.raises(ConfigError, match=r"^neighbours: env: there is no variable 'NONE'"):
        load({"neighbours": "zookeeper://z env:NONE"}, {}, None)


@pytest.mark.parametrize("path", ["x" * 5_000, "x/" * 3_000, "\0", "/etc/hosts/x"])
def test_a_file_that_can_have_no_such_name(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^check_ca: no such file"):
        Config(check_ca=path)


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    (path := tmp_path / "registry.toml").write_text("log_level = 'debug'\n", encoding="utf-8-sig")
    assert load({}, {}, path).log_level == "debug"


@pytest.mark.parametrize("name", [it.name for it in fields(Config)])
@pytest.mark.parametrize("value", [None, b"x", ["x"], object()])
def test_a_value_of_another_type_names_its_setting(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be "):
        Config(**{name: value})


@pytest.mark.parametrize("name", [it.name for it in fields(ServiceDefaults)])
@pytest.mark.parametrize("value", [None, "15s", True, float("nan"), float("inf"), -float("inf")])
def test_a_default_that_is_no_number_names_itself(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^service\.{name}: must be a number of seconds"):
        Config(service=ServiceDefaults(**{name: value}))


@pytest.mark.parametrize("name", ["check_concurrency", "cut_off_least"])
def test_what_is_counted_is_a_whole_number(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be a whole number, is 2.5$"):
        Config(**{name: 2.5})


@pytest.mark.parametrize("text", ["", "[limits]\n", "check_concurrency = 7\ncut_off_share = 1\n[service]\nttl = '1m'"])
def test_numbers_may_be_numbers(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "registry.toml").write_text(text)
    config = load({}, {"REGISTRY_CUT_OFF_LEAST": "9"}, path)
    assert config.cut_off_least == 9
    if text.startswith("check"):
        assert (config.check_concurrency, config.cut_off_share, config.service.ttl) == (7, 1, 60.0)


def test_service_defaults_are_a_check_for_who_has_none() -> None:
    service = ServiceDefaults(health_check_interval=2, deregister_critical_after=30)
    [check] = Config(service=service).rules()["*"]
    assert (check.name, check.interval.seconds, check.deregister_after.seconds) == ("tcp", 2, 30)
    [other] = Config(service=service, service_checks="*=ttl").rules()["*"]
    assert other.name == "ttl", "what is said of checks is said of checks"
    assert Config().rules() == {}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("ttl = 1", "service.ttl: must be 2 to 3600 seconds, is 1"),
        ("ttl = true", "service.ttl: must be a number of seconds"),
        ("ttl = inf", "service.ttl: must be a number of seconds"),
        ("ttl = -1", "service.ttl: must be a number of seconds"),
        ("health_check_interval = 0.01", "service: [0].interval: must be 0.1 s to 3600 s"),
        (f"health_check_interval = '{'9' * 400}s'", "service.health_check_interval: must be a number of seconds"),
        (f"health_check_interval = 1{'0' * 400}", "service.health_check_interval: must be a number of seconds"),
        ("deregister_critical_after = 1e300", "service.deregister_critical_after: must be a number of seconds"),
        ("deregister_critical_after = 1e11", "service: [0].deregister_after: must be"),
        (
            "heath_check_interval = 1",
            "service.heath_check_interval: no such setting; did you mean health_check_interval?",
        ),
    ],
)
def test_service_defaults_with_a_mistake(tmp_path: Path, table: str, said: str) -> None:
    test_file_with_a_mistake(tmp_path, f"[service]\n{table}", said)


# ---- several stores


def test_several_stores_are_a_mirror(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(
        "[stores.primary]\ntype = 'etcd'\nendpoints = ['a', 'b']\n[stores.backup]\ntype = 'sqlite'\npath = '/x.db'\n"
    )
    assert load({}, {}, path).store == mirror_of(["etcd://a,b", "sqlite:/x.db"])
    path.write_text("[stores]\nwrite = 'any'\nprimary = 'env:URL'\nbackup = 'sqlite:/x.db'\n")
    assert load({}, {"URL": "etcd://a"}, path).store == mirror_of(["etcd://a", "sqlite:/x.db"], "any")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[stores]", "stores: "),
        ("stores = 7", "stores: must be a table"),
        ("[stores]\na = 7\nb = 'sqlite:x'", "stores.a: must be a table, or a URL"),
        ("[stores]\nwrite = 'most'\na = 'sqlite:x'\nb = 'sqlite:y'", "stores: write must be one of quorum, any"),
        ("[stores]\nwrite = ['any']\na = 'sqlite:x'\nb = 'sqlite:y'", "stores: write must be one of quorum, any"),
        ("[stores]\nwrite = 'any'", "stores: "),
        ("[stores]\na = 'sqlite:x|y'\nb = 'sqlite:z'", "stores.a: has a '|'"),
        ("[stores.a]\ntype = 'sqlite'\npath = 'x|y'\n[stores.b]\ntype = 'sqlite'\npath = 'z'", "stores.a: has a '|'"),
        ("[stores.a]\ntype = 'etcd'\nendpoint = 'h'\n[stores.b]\ntype = 'memory'", "stores.a.endpoint: no such key"),
        ("[stores.a]\ntype = 'memory'\n[stores.b]\ntype = 'memory'", "stores: "),
        ("store = 'memory:'\n[stores]\na = 'sqlite:x'\nb = 'sqlite:y'", "stores: there is a store as well"),
        ("[stores]\na = 'redis:x'\nb = 'sqlite:y'", "stores.a: store URL: there is no such kind"),
    ],
)
def test_several_stores_with_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    test_file_with_a_mistake(tmp_path, text, said)


# ---- TLS


def test_tls_as_a_table_is_the_same(tmp_path: Path) -> None:
    files = authority_files(tmp_path)
    path = tmp_path / "registry.toml"
    path.write_text("[tls]\n" + "".join(f'{name} = "{file}"\n' for name, file in files.items()))
    assert load({}, {}, path) == Config(**{f"tls_{name}": file for name, file in files.items()})
    assert load({"tls_cert": files["client_ca"]}, {}, path).tls_cert == files["client_ca"], "the flag wins"


def authority_files(directory: Path) -> dict[str, str]:
    authority = Authority()
    pair = authority.pair("localhost").write(directory)
    return {"cert": str(pair.cert), "key": str(pair.key), "client_ca": str(authority.write(directory))}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[tls]\ncert = "{cert}"', "tls_key: must be there with tls_cert"),
        ('[tls]\nkey = "{key}"', "tls_cert: must be there with tls_key"),
        ('tls_client_ca = "{client_ca}"', "tls_cert: must be there with tls_client_ca"),
        ('[tls]\ncert = "/nowhere"\nkey = "{key}"', r"tls_cert: no such file: '/nowhere' \(.*, line 2\)"),
        ('[tls]\ncret = "{cert}"', r"tls.cret: no such setting; did you mean cert\? \(.*, line 2\)"),
        ('tls_cert = "{cert}"\n[tls]\ncert = "{cert}"', r"tls.cert: stands there as tls_cert, too \(.*, line 3\)"),
        ("[tls]\ncert = 7", "tls_cert: must be a string"),
        ("tls = 7", "tls: must be a table"),
    ],
)
def test_mistakes_of_tls(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text.format(**authority_files(tmp_path)))
    with pytest.raises(ConfigError, match=told):
        load({}, {}, path)
