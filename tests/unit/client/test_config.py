"""`from_config`: dicts and TOML files, the ones of other frameworks among them; mistakes named by their keys."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from registry_client import TLS, InvalidArgument, Registries, RegistryClient, from_config, sync
from registry_client import config as configs
from registry_client.papers import NO_PAPERS


def test_addresses() -> None:
    client = from_config({"addresses": "h1:7400,h2", "namespace": "games", "timeout": "2s"})
    assert isinstance(client, RegistryClient)
    assert (client.addresses, client.namespace, client._settings.timeout_s) == (("h1:7400", "h2:7400"), "games", 2.0)
    listed = from_config({"addresses": ["h1", "h2"]})
    assert isinstance(listed, RegistryClient)
    assert listed.addresses == ("h1:7400", "h2:7400")


@pytest.mark.parametrize(
    ("given", "store"),
    [
        ({"store": "memory:"}, "memory:"),
        ({"store": {"type": "sqlite", "path": "/var/lib/r.db"}}, "sqlite:/var/lib/r.db"),
        ({"type": "sqlite", "sqlite": {"path": "/var/lib/r.db"}}, "sqlite:/var/lib/r.db"),
        (
            {"type": "consul", "consul": {"host": "h", "token": "t&", "scheme": "https"}},
            "consul://h:8500?token=t%26&tls=true",
        ),
        ({"type": "memory"}, "memory:"),
        ({"type": "etcd"}, "etcd://127.0.0.1:2379"),
        ({"type": "etcd", "etcd": {"host": "h", "port": 2380}}, "etcd://h:2380"),
        (
            {"type": "etcd", "etcd": {"endpoints": ["http://h1:2379", "http://h2:2379"], "timeout": 5}},
            "etcd://h1:2379,h2:2379",
        ),
        (
            {"type": "etcd", "config": {"endpoints": ["https://h1:2379"], "username": "me", "password": "a&b"}},
            "etcd://h1:2379?user=me&password=a%26b&tls=true",
        ),
        ({"type": "etcd", "etcd": {"endpoints": "h1:2379", "username": "", "password": None}}, "etcd://h1:2379"),
    ],
)
def test_stores(given: dict[str, object], store: str) -> None:
    client = from_config(given)
    assert isinstance(client, RegistryClient)
    assert client._settings.store == store


def test_the_one_dict_of_the_origin() -> None:
    client = from_config(
        {
            "type": "etcd",
            "etcd": {"endpoints": ["http://localhost:2379"], "timeout": 4},
            "consul": {"host": "localhost", "port": 8500},
            "service": {"ttl": 30, "health_check_interval": 10, "deregister_critical_after": "30s"},
        }
    )
    assert isinstance(client, RegistryClient)
    it = client._settings
    assert (it.store, it.timeout_s, it.ttl_s) == ("etcd://localhost:2379", 4.0, 30.0)
    [check] = it.checks
    message = check.to_proto()
    assert (check.kind, message.interval.seconds, message.deregister_after.seconds) == ("tcp", 10, 30)


def test_adapters() -> None:
    registries = from_config(
        {
            "adapters": {
                "primary": {"type": "etcd", "config": {"endpoints": ["http://h1:2379"]}},
                "backup": {"addresses": "h2:7400"},
            },
            "service": {"ttl": 20},
        }
    )
    assert isinstance(registries, Registries)
    assert registries.names == ("primary", "backup")
    assert registries["primary"]._settings.store == "etcd://h1:2379"
    assert registries["backup"]._settings.ttl_s == 20.0


def test_consul_is_asked_for_by_its_url() -> None:
    """Whether there is such a kind of store is for the server to say."""
    table = {"host": "h", "port": 8501, "token": "t&", "scheme": "https"}
    assert configs._consul("consul", table) == "consul://h:8501?token=t%26&tls=true"


def test_a_ttl_of_its_own_and_no_cache() -> None:
    for nowhere in (False, None):
        client = from_config({"addresses": "h1", "ttl": "1m", "cache_dir": nowhere})
        assert isinstance(client, RegistryClient)
        assert (client._settings.ttl_s, client._settings.cache_dir) == (60.0, None)


def test_tls_is_for_those_that_have_addresses() -> None:
    both = {"a": {"addresses": "h1"}, "b": {"store": "memory:"}}
    several = from_config({"adapters": both, "tls": {}, "token": "secret"})
    assert isinstance(several, Registries)
    assert several["a"]._settings.papers.tls == TLS()
    assert several["a"]._settings.papers.token == "secret"
    assert several["b"]._settings.papers == NO_PAPERS
    assert "secret" not in repr(several["a"]._settings)


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text('type = "memory"\n[service]\nttl = "1m"\n')
    for given in (path, str(path)):
        client = from_config(given)
        assert isinstance(client, RegistryClient)
        assert client._settings.ttl_s == 60.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (7, "config: must be a dict"),
        ({}, "config: must have one of addresses, store and type, has 0"),
        ({"addresses": "h1", "type": "etcd"}, "config: must have one of addresses, store and type, has 2"),
        ({"adresses": "h1"}, "adresses: no such key; did you mean addresses?"),
        ({"addresses": "h1:x"}, "addresses: address 'h1:x'"),
        ({"addresses": [7]}, "addresses: each must be a string"),
        ({"type": "nonesuch"}, "type: must be one of memory, etcd, consul"),
        ({"type": "sqlite", "sqlite": {"pth": "x"}}, "sqlite.pth: no such key; did you mean path?"),
        ({"type": "sqlite", "sqlite": {"type": "etcd"}}, "sqlite.type: stands beside sqlite already"),
        ({"store": {"type": "etcd", "endpoints": 7}}, "store.endpoints: must be a list of HOST:PORT"),
        ({"store": {"path": "x"}}, "store: must have a type"),
        ({"adapters": {"a": {"type": "sqlite", "config": {"pth": "x"}}}}, "adapters.a.config.pth: no such key"),
        ({"type": "sqlite", "etcd": {}, "sqlit": {}}, "sqlit: no such key"),
        ({"type": "etcd", "etcd": {"endpoint": "h"}}, "etcd.endpoint: no such key; did you mean endpoints?"),
        ({"type": "etcd", "etcd": {"endpoints": 7}}, "etcd.endpoints: must be a list of strings"),
        ({"type": "etcd", "etcd": {"endpoints": ["ftp://h"]}}, "etcd.endpoints: must all be http://HOST:PORT"),
        ({"type": "etcd", "etcd": {"port": "x"}}, "etcd.port: must be an int"),
        ({"type": "etcd", "etcd": {"timeout": "soon"}}, "etcd.timeout: must be a number of seconds"),
        ({"adapters": {}}, "adapters: must name one or more registries"),
        ({"adapters": {"a b": {}}}, "adapters: "),
        ({"adapters": {"primary": {"type": "etcd", "etcd": []}}}, "adapters.primary.etcd: must be a dict"),
        ({"adapters": {"primary": {"store": "memory:x"}}}, "adapters.primary.store: addresses: store URL: "),
        ({"adapters": {"primary": {"service": {}}}}, "adapters.primary.service: no such key"),
        ({"store": "memory:", "service": {"ttl": 1}}, "service.ttl: must be 2 to 3600"),
        ({"store": "memory:", "ttl": "1s"}, "ttl: must be 2 to 3600"),
        ({"store": "memory:", "ttl": 5, "service": {"ttl": 5}}, "ttl: stands in service, too"),
        ({"addresses": "h1", "token": "secret"}, "addresses: token: would go to h1:7400 without TLS"),
        ({"addresses": "h1", "token": 7}, "token: must be a string"),
        ({"addresses": "127.0.0.1", "token": "a b"}, "token: must be 1 to 4096 printable ASCII characters"),
        ({"addresses": "127.0.0.1", "token": "env:NO_SUCH_VARIABLE"}, "token: env: there is no variable"),
        ({"addresses": "h1", "plaintext_token": 1}, "plaintext_token: must be True or False"),
        ({"store": "memory:", "token": "secret"}, "token: is for addresses"),
        ({"addresses": "h1", "service": {"ttl": float("nan")}}, "service.ttl: must be"),
        ({"addresses": "h1", "service": []}, "service: must be a dict"),
        ({"addresses": "h1", "cache_dir": ""}, "cache_dir: must not be empty"),
        ({"addresses": "h1", "cache_dir": 7}, "cache_dir: must be a path or None"),
        ({"addresses": "h1", 7: 7}, "config: must be a dict with names for keys"),
        ({"store": "h1:7400"}, "store: must be the URL of a store"),
        ({"store": "memory:", "tls": {}}, "tls: is for addresses"),
        ({"addresses": "h1", "tls": {"cert": "x"}}, "tls.key: must be there with tls.cert"),
        ({"addresses": "h1", "tls": {"ca": "a\0b"}}, "tls.ca: "),
        ({"type": "etcd", "etcd": {"host": -1}}, "etcd.host: must be a string"),
        ({"type": "etcd", "etcd": {"username": []}}, "etcd.username: must be a string"),
        ({"type": "consul", "consul": {"scheme": "ftp"}}, "consul.scheme: must be http or https"),
        ({"type": "consul", "consul": {"token": 7}}, "consul.token: must be a string"),
        ({"adapters": {"a": {"addresses": "h1"}}, "addresses": "h2"}, "addresses: has no meaning beside adapters"),
        (
            {"adapters": {"a": {"addresses": "h1"}, "b": {"addresses": "h1"}}},
            "adapters: registries: b is the same registry as a",
        ),
        ({"addresses": "h1", "timeout": 0}, "timeout: must be more than 0 seconds"),
        ({"type": "etcd", "etcd": {"timeout": "0s"}}, "etcd.timeout: must be more than 0 seconds"),
        ({"type": "etcd", "etcd": {"endpoints": []}}, "etcd.endpoints: must have one or more"),
        ({"type": "etcd", "etcd": {"endpoints": ["http://h:1/v3"]}}, "etcd.endpoints: must be HOST:PORT or http://"),
        ({"type": "etcd", "etcd": {"endpoints": "h:1/?a=b"}}, "etcd.endpoints: must be HOST:PORT or http://"),
        ({"type": "etcd", "etcd": {"endpoints": "h:1", "host": "i"}}, "etcd.host: has no meaning beside endpoints"),
        ({"type": "etcd", "etcd": {"endpoints": "h:1", "port": 2}}, "etcd.port: has no meaning beside endpoints"),
        ({"type": "etcd", "etcd": {"endpoints": ["http://[::1"]}}, "etcd.endpoints: must be HOST:PORT or http://"),
        ({"adapters": {"a": {"type": "etcd", "config": {"endpoints": "h1:x"}}}}, "adapters.a.config: addresses: store"),
        (
            {"store": "memory:", "service": {"health_check_interval": 0}},
            "service.health_check_interval: check.interval",
        ),
        ("a\0b", "config: "),
        ("x" * 5000, "config: "),
        (
            {"store": "memory:", "service": {"ttl": "1 week"}},
            "service.ttl: must be a number of seconds, or such as '30s'",
        ),
        (
            {"store": "memory:", "service": {"deregister_critical_after": -1}},
            "service.deregister_critical_after: must be",
        ),
        ({"addresses": "h1", "tls": {"ca": "/nowhere/ca.pem"}}, "tls.ca: /nowhere/ca.pem: No such file"),
        ("/nowhere/registry.toml", "config: /nowhere/registry.toml: No such file"),
    ],
)
def test_mistakes_are_told_with_their_key(given: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        from_config(given)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
    assert refused.value.field == told.partition(":")[0]


def test_what_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff = [")
    with pytest.raises(InvalidArgument, match="not TOML"):
        from_config(tmp_path / "x.toml")


@pytest.mark.parametrize(
    "given",
    [
        {"type": "etcd", "etcd": {"endpoints": ["http://:1"], "username": "me", "password": "secret"}},
        {"type": "consul", "consul": {"token": "secret\n"}},
        {"addresses": "etcdd://me:secret@h1"},
        {"store": "consul://h1?token=secret&prefix=/secret"},
    ],
)
def test_no_message_shows_a_password(given: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="store URL: ") as refused:
        from_config(given)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "etcd", "etcd": {"username": "me", "password": b"secret"}},
        {"type": "consul", "consul": {"token": ["secret"]}},
        {"type": "consul", "consul": {"token": "secret\ud800"}},
        {"type": "consul", "consul": "secret"},
        {1: 2, "etcd": {"password": "secret"}},
        {"adapters": [{"password": "secret"}]},
        {"addresses": ["etcd://me:secret@h1"]},
        {"addresses": "me:secret@h1"},
        {"store": b"etcd://me:secret@h1"},
    ],
)
def test_no_message_shows_a_password_in_the_wrong_place(given: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        from_config(given)
    assert "secret" not in str(refused.value)


def test_a_password_in_an_endpoint_is_not_shown() -> None:
    with pytest.raises(InvalidArgument, match=r"etcd\.endpoints: must all be") as refused:
        from_config({"type": "etcd", "etcd": {"endpoints": ["http://me:secret@h1", "https://h2"]}})
    assert "secret" not in str(refused.value)


def test_threads() -> None:
    one = sync.from_config({"addresses": "h1"})
    assert isinstance(one, sync.RegistryClient)
    assert one.addresses == ("h1:7400",)
    several = sync.from_config({"adapters": {"primary": {"addresses": "h1"}, "backup": {"addresses": "h2"}}})
    assert isinstance(several, sync.Registries)
    assert several.names == ("primary", "backup")
    assert several["backup"].addresses == ("h2:7400",)


NAMES = ["namespace", "timeout", "ttl", "cache_dir", "tls", "service", "token", "memory", "etcd", "consul", "config"]
KEYS = [
    "endpoints",
    "host",
    "port",
    "username",
    "password",
    "scheme",
    "ca",
    "path",
    "type",
    "ttl",
    "store",
    "addresses",
]
WORDS = ["", "h1", "h1:7400", "memory:", "etcd", "consul", "sqlite", "mirror", "30s", "http://h:1", "\x00", "a b", "/x"]
VALUES = st.sampled_from(WORDS) | st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=3)
TABLES = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
)
PLACES = st.fixed_dictionaries({"addresses": TABLES}) | st.fixed_dictionaries({"store": TABLES})
PLACES |= st.sampled_from(["memory", "etcd", "consul", "sqlite", "zookeeper"]).flatmap(
    lambda kind: st.fixed_dictionaries({"type": st.just(kind), kind: TABLES})
)
PLACES |= st.fixed_dictionaries({"adapters": st.dictionaries(st.sampled_from(["a", "b"]), PLACES | TABLES)})


@hypothesis.given(PLACES, st.dictionaries(st.sampled_from(NAMES), TABLES, max_size=2))
def test_whatever_is_given_is_a_client_or_a_mistake_with_its_key(
    place: dict[str, object], others: dict[str, object]
) -> None:
    try:
        client = from_config({**others, **place})
    except InvalidArgument as wrong:
        said = str(wrong), wrong.field
    else:
        said = "", client.names[0] if isinstance(client, Registries) else client.namespace
    assert said[1]
    assert "\n" not in said[0]
