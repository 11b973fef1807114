"""URLs of etcd stores: what they mean, and that every mistake is named before anything is connected."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores import has_password, open_store
from registry_server.stores.base import BadStoreURL
from registry_server.stores.etcd import url as url_module
from registry_server.stores.etcd.url import Client, EtcdURL
from registry_server.stores.urls import TLS, Login


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
        ("etcd://h?user=me&password=p+q", Login("me", "p+q")),
    ],
)
def test_login(url: str, login: Login) -> None:
    assert EtcdURL.parse(url).login == login


@pytest.mark.parametrize(("query", "tls"), [("", None), ("?tls=false", None), ("?tls=true", TLS())])
def test_tls(query: str, tls: TLS | None) -> None:
    assert EtcdURL.parse(f"etcd://h{query}").tls == tls


@pytest.mark.parametrize(
    ("query", "client"), [("", None), ("?client=grpc", Client.GRPC), ("?client=http2", Client.HTTP2)]
)
def test_client(query: str, client: Client | None) -> None:
    assert EtcdURL.parse(f"etcd://h{query}").client is client


def test_client_that_is_not_installed_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_module, "find_spec", lambda name: None)
    with pytest.raises(BadStoreURL, match="needs the package ngh2"):
        EtcdURL.parse("etcd://h?client=http2")
    assert EtcdURL.parse("etcd://h?client=grpc").client is Client.GRPC


def test_ca_alone_means_tls(file: Path) -> None:
    assert EtcdURL.parse(f"etcd://h?ca={file}").tls == TLS(file)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://h", "starts with etcd://"),
        ("etcd:h", "starts with etcd://"),
        ("ETCD://h", "starts with etcd://"),
        ("etcd://", "the 1st address is not HOST"),
        ("etcd://h1,,h2", "the 2nd address is not HOST"),
        ("etcd://h 1", "has a blank"),
        ("etcd://h\n", "has a blank"),
        ("etcd://::1", "the 1st address"),
        ("etcd://h1,h2,[::1", "the 3rd address"),
        ("etcd://h1,h2,h3,[zz]", "the 4th address"),
        ("etcd://h:", "the port of the 1st address"),
        ("etcd://h1,h:0", "the port of the 2nd address"),
        ("etcd://h:65536", "the port of the 1st address"),
        ("etcd://h:12a", "the port of the 1st address"),
        ("etcd://h:²", "the port of the 1st address"),
        ("etcd://h:" + "9" * 5000, "the port of the 1st address"),
        ("etcd://h/db", "a path has no meaning"),
        ("etcd://h#x", "nothing follows a '#'"),
        ("etcd://h?client=curl", "client is neither http2 nor grpc"),
        ("etcd://h?cacert=x", "the 1st parameter is none of ca, cert, key"),
        ("etcd://h?tls=true&pasword_file=x", "the 2nd parameter is none of ca, cert, key, user, password"),
        ("etcd://h?tls=true&pasword_file=x", "nearest: password_file"),
        ("etcd://h?tls=true&tls=true", "'tls' is given twice"),
        ("etcd://h?tls", "'tls' is empty"),
        ("etcd://h?tls=yes", "tls is neither true nor false"),
        ("etcd://h?prefix=registry", "prefix must start with '/'"),
        ("etcd://h?prefix=/", "prefix must start with '/'"),
        ("etcd://h?prefix=/a%2", "parameter 'prefix' has a '%' that escapes no character"),
        ("etcd://h?ca=/no/such/file", "ca: there is no readable file"),
        ("etcd://h?ca=/", "ca: there is no readable file"),
        ("etcd://h?ca=%00", "ca: there is no readable file"),
        ("etcd://h?user=u&password_file=/no/such/file", "password_file: there is no readable file"),
        ("etcd://h?user=u", "user needs a password"),
        ("etcd://u@h", "user needs a password"),
        ("etcd://h?password=p", "password needs a user"),
        ("etcd://u:p@h?user=v", "user is given twice"),
        ("etcd://u:p@h?password=q", "password is given twice"),
        ("etcd://u:100%@h", "the password has a '%' that escapes no character"),
        ("etcd://u:%FF@h", "the password has a '%' that escapes no character"),
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


# A password as people have them, and what may go wrong around it.
SECRETS = ("hunter2", "hun&ter2", "hun@ter2", "hun?ter2", "hun/ter2", "hun#ter2", "hun:ter2", "hun,ter2", "hun=ter2")
SECRETS += ("hun ter2", "hun%ter2", "hun+ter2", "hun[ter2", "hun\\ter2", "hun\nter2", "hünter2", "hun&prefix=ter2")
SECRETS += (
    "hun&ca=ter2",
    "hun&tls=ter2",
    "&hunter2",
    "@hunter2",
    "hunter2@",
    "hun;ter2",
    "hun\x00ter2",
    "hun&user=ter2",
)
PLACES = (
    "etcd://me:{}@h",
    "etcd://me:{}@h:x",
    "etcd://me:{}@h/db",
    "etcd://me:{}@h?nope=1",
    "etcd://me:{}@h?tls=1",
    "etcd://me:{}@h#x",
    "etcd://me:{}@h?prefix=x",
    "etcd://me:{}@h?password=other",
    "etcd://me:{}@h,[::1",
    "etcd://me:{}",
    "etcd://me:{},h",
    "etcd://me:{}h:2379",
    "etcd://h?user=me&password={}",
    "etcd://h?user=me&password={}&tls=1",
    "etcd://h?password={}",
    "etcd://h?user=me&pasword={}",
    "etcd://h?user=me&{}",
    "etcd://h?user=me&password_file={}",
    "etcd:me:{}@h",
    "etcd//me:{}@h",
    "me:{}@h",
    "{}",
    "memory:{}",
    "memory://me:{}@h",
    "http://me:{}@h",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("secret", SECRETS)
def test_no_mistake_around_a_password_tells_any_of_it(place: str, secret: str) -> None:
    said = ""
    try:
        open_store(place.format(secret))
    except BadStoreURL as error:
        said = str(error)
    assert all(piece not in said for piece in ("hun", "hün", "ter2", "me:")), said
    assert "\n" not in said


@given(st.text(min_size=6, max_size=12), st.sampled_from(PLACES))
def test_no_mistake_tells_any_password_whatever(secret: str, place: str) -> None:
    said = ""
    try:
        open_store(place.format(f"x{secret}x"))
    except BadStoreURL as error:
        said = str(error)
    assert f"x{secret}x" not in said


@pytest.mark.parametrize("password", ["hun/ter2", "hun?ter2", "hun#ter2"])
def test_password_that_was_not_encoded_is_explained(password: str) -> None:
    with pytest.raises(BadStoreURL, match="percent-encoded"):
        EtcdURL.parse(f"etcd://me:{password}@h")


@pytest.mark.parametrize("password", ["p@ss", "p@:", "a+b", "größe", "p%26%2F"])
def test_passwords_that_need_no_encoding_or_have_it(password: str) -> None:
    login = EtcdURL.parse(f"etcd://me:{password}@h").login
    assert login is not None
    assert login.password == password.replace("%26", "&").replace("%2F", "/")


@pytest.mark.parametrize(
    ("url", "has_one"),
    [
        ("memory:", False),
        ("etcd://h", False),
        ("etcd://u:p@h", True),
        ("etcd://h?user=u&password=p", True),
        ("etcd://u@h?password_file={file}", False),
    ],
)
def test_urls_with_a_password_in_them(url: str, has_one: bool, file: Path) -> None:
    assert has_password(url.format(file=file)) is has_one


def test_a_password_file_that_is_no_text_is_like_one_that_cannot_be_read(file: Path) -> None:
    login = EtcdURL.parse(f"etcd://u@h?password_file={file}").login
    assert login is not None
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(OSError, match="UTF-8"):
        login.read_password()


def test_repr_does_not_tell_the_password() -> None:
    assert "hunter2" not in repr(EtcdURL.parse("etcd://me:hunter2@h"))


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_mistake(text: str) -> None:
    for url in (text, f"etcd://{text}", f"etcd://h?{text}"):
        try:
            assert EtcdURL.parse(url).endpoints
        except BadStoreURL as error:
            assert str(error).startswith("store URL: ")  # noqa: PT017 - either way is right
