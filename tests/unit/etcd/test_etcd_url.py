"""URLs of etcd stores: what they mean, and that every mistake is named before anything is connected."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.base import BadStoreURL
from registry_server.stores.etcd_url import TLS, EtcdURL, Login


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "file.pem").write_text("secret\n")
    return path


@pytest.mark.parametrize(
    ("hosts", "endpoints"),
    [
        ("h1", ["h1:2379"]),
        ("h1:1", ["h1:1"]),
        ("h1,h2:5,10.0.0.1", ["h1:2379", "h2:5", "10.0.0.1:2379"]),
        ("[::1],[fe80::1]:65535", ["[::1]:2379", "[fe80::1]:65535"]),
        ("etcd-0.etcd.prod.svc:2379/", ["etcd-0.etcd.prod.svc:2379"]),
    ],
)
def test_endpoints(hosts: str, endpoints: list[str]) -> None:
    assert EtcdURL.parse(f"etcd://{hosts}") == EtcdURL(tuple(endpoints), prefix="/grpc-registry")


def test_everything(file: Path) -> None:
    url = f"etcd://h1,h2?ca={file}&cert={file}&key={file}&user=u&password_file={file}&prefix=/a/b/&tls=true"
    parsed = EtcdURL.parse(url)
    assert parsed == EtcdURL(("h1:2379", "h2:2379"), "/a/b", Login("u", None, file), TLS(file, file, file))
    assert parsed.login is not None
    assert parsed.login.read_password() == "secret"


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("etcd://me:p%40ss%3A@h", Login("me", "p@ss:")),
        ("etcd://me@h?password=p%26", Login("me", "p&")),
        ("etcd://h?user=me&password=p+q", Login("me", "p q")),
    ],
)
def test_login(url: str, login: Login) -> None:
    assert EtcdURL.parse(url).login == login


@pytest.mark.parametrize(("query", "tls"), [("", None), ("?tls=false", None), ("?tls=true", TLS())])
def test_tls(query: str, tls: TLS | None) -> None:
    assert EtcdURL.parse(f"etcd://h{query}").tls == tls


def test_ca_alone_means_tls(file: Path) -> None:
    assert EtcdURL.parse(f"etcd://h?ca={file}").tls == TLS(file)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://h", "starts with etcd://"),
        ("etcd:h", "starts with etcd://"),
        ("etcd://", "host ''"),
        ("etcd://h1,,h2", "host ''"),
        ("etcd://h 1", "host 'h 1'"),
        ("etcd://::1", "host '::1'"),
        ("etcd://[::1", "store URL"),
        ("etcd://[zz]", "store URL"),
        ("etcd://h:", "port of 'h:'"),
        ("etcd://h:0", "port of 'h:0'"),
        ("etcd://h:65536", "port of 'h:65536'"),
        ("etcd://h:12a", "port of 'h:12a'"),
        ("etcd://h:²", "port of 'h:²'"),
        ("etcd://h:" + "9" * 5000, "port of"),
        ("etcd://h/db", "path '/db'"),
        ("etcd://h#x", "'#…'"),
        ("etcd://h?cacert=x", "unknown parameter 'cacert'; there are ca, cert, key"),
        ("etcd://h?tls=true&tls=true", "'tls' is given twice"),
        ("etcd://h?tls", "'tls' is empty"),
        ("etcd://h?tls=yes", "tls 'yes' is neither true nor false"),
        ("etcd://h?prefix=registry", "prefix 'registry'"),
        ("etcd://h?prefix=/", "prefix '/'"),
        ("etcd://h?ca=/no/such/file", "ca: no readable file '/no/such/file'"),
        ("etcd://h?ca=/", "ca: no readable file '/'"),
        ("etcd://h?user=u&password_file=/no/such/file", "password_file: no readable file"),
        ("etcd://h?user=u", "user needs a password"),
        ("etcd://u@h", "user needs a password"),
        ("etcd://h?password=p", "password needs a user"),
        ("etcd://u:p@h?user=v", "user is given twice"),
        ("etcd://u:p@h?password=q", "password is given twice"),
    ],
)
def test_mistakes_are_named(url: str, named: str) -> None:
    with pytest.raises(BadStoreURL) as refused:
        EtcdURL.parse(url)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_contradict(file: Path) -> None:
    for query, named in (
        (f"cert={file}", "cert and key belong together"),
        (f"key={file}", "cert and key belong together"),
        (f"ca={file}&tls=false", "tls=false contradicts"),
        (f"user=u&password=p&password_file={file}", "password is given twice"),
    ):
        with pytest.raises(BadStoreURL, match=named):
            EtcdURL.parse(f"etcd://h?{query}")


@pytest.mark.parametrize("mistake", ["h:x", "h/db", "h?nope=1", "h?tls=1", "h#x", "h?prefix=x", "h?password=other"])
def test_mistakes_do_not_tell_the_password(mistake: str) -> None:
    with pytest.raises(BadStoreURL) as refused:
        EtcdURL.parse(f"etcd://me:hunter2@{mistake}")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("password", ["hun/ter2", "hun?ter2", "hun#ter2"])
def test_password_that_was_not_encoded_is_not_told(password: str) -> None:
    with pytest.raises(BadStoreURL, match="percent-encoded") as refused:
        EtcdURL.parse(f"etcd://me:{password}@h")
    assert "hun" not in str(refused.value)
    assert "ter2" not in str(refused.value)


def test_repr_does_not_tell_the_password() -> None:
    assert "hunter2" not in repr(EtcdURL.parse("etcd://me:hunter2@h"))


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_mistake(text: str) -> None:
    for url in (text, f"etcd://{text}", f"etcd://h?{text}"):
        try:
            assert EtcdURL.parse(url).endpoints
        except BadStoreURL as error:
            assert str(error).startswith("store URL: ")  # noqa: PT017 - either way is right
