"""Settings: flags over the environment over the file over the defaults, and every mistake names its setting."""

import os
from pathlib import Path

import pytest

from registry_server.config import ENV_PREFIX, Config, ConfigError, load
from registry_server.transport.limits import Limits


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "registry.toml"
    path.write_text('listen = "127.0.0.1:1111"\nlog_format = "json"\nlog_level = "debug"\n')
    return path


def test_defaults() -> None:
    assert load({}, {}, None) == Config("127.0.0.1:7400", "memory:", "text", "info", "http2")


def test_order_of_the_sources(file: Path) -> None:
    flags = {"listen": "127.0.0.1:3333", "log_level": None}
    env = {"REGISTRY_LISTEN": "127.0.0.1:2222", "REGISTRY_LOG_LEVEL": "error", "LISTEN": "x", "REGISTRY_OTHER": "y"}
    config = load(flags, env, file)
    assert config == Config(listen="127.0.0.1:3333", store="memory:", log_format="json", log_level="error")
    assert load({}, env, file).listen == "127.0.0.1:2222"
    assert load({}, {}, file).listen == "127.0.0.1:1111"


def test_the_environment_can_name_the_file(file: Path, tmp_path: Path) -> None:
    env = {"REGISTRY_CONFIG": str(file), "REGISTRY_LOG_LEVEL": "error"}
    assert load({}, env, None) == Config("127.0.0.1:1111", "memory:", "json", "error")
    other = tmp_path / "other.toml"
    other.write_text('listen = "127.0.0.1:2222"\n')
    assert load({}, env, other).listen == "127.0.0.1:2222", "the flag wins"
    assert load({}, {"REGISTRY_CONFIG": ""}, None) == Config(), "empty is not set"
    with pytest.raises(ConfigError, match=r"none.toml: No such file"):
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
    with pytest.raises(ConfigError, match=f"^{name}: .*" + ("" if name == "store" else "no such thing")) as error:
        load(flags, env, path)
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
            "server: no such setting; there are listen, store, log_format, log_level, transport",
        ),
        ("lisen = '127.0.0.1:1'", "lisen: no such setting"),
        ("listen = ", "not TOML"),
        ("listen = '1'\nlisten = '2'", "not TOML"),
    ],
)
def test_file_with_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load({}, {}, path)
    assert str(error.value).startswith(f"{path}: ")
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
        ("[limits]\nmax_strems = 7", "limits: max_strems: no such limit; there are handshake_s, "),
        ("[limits]\nmax_streams = 0", "limits: max_streams: must be a whole number from 1 to 2147483647"),
        ("[limits]\nmax_idle_s = -1", "limits: max_idle_s: must be a whole number from 0 to 2147483647"),
        ("[limits]\nmax_streams = true", "limits: max_streams: must be a whole number"),
        ("[limits]\nmax_streams = '9'", "limits: max_streams: must be a whole number"),
        ("[limits]\nmax_streams = 1.5", "limits: max_streams: must be a whole number"),
        (f"[limits]\nmax_streams = {2**31}", "limits: max_streams: must be a whole number"),
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
        Config(**{name: value})
