"""What a client shows of itself: whom it tells a token, where that is from, and what files can be used."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from registry_client import TLS, bearer, connect, tls
from registry_client.addresses import is_of_this_machine
from registry_client.bearer import Bearer, check_token
from registry_client.errors import InvalidArgument, RegistryUnavailable, tls_trouble
from registry_client.papers import NO_PAPERS
from tests.support.tls import Authority
from tests.support.waiting import eventually_async, passed

SECRET = "s3cret"
SHOWN = (("authorization", f"Bearer {SECRET}"),)


# ---- whom a token is told


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7400",
        "127.8.9.10:1",
        "[::1]:7400",
        "localhost:7400",
        "LOCALHOST:1",
        "unix:/run/x.sock",
        "[::ffff:127.0.0.1]:1",
    ],
)
def test_of_this_machine(address: str) -> None:
    assert is_of_this_machine(address)
    assert connect(address, token=SECRET)._settings.papers.token == SECRET


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:7400", "h:7400", "localhost.example:1", "127.0.0.1.example:1", "[::]:1", "0.0.0.0:1", "[fe80::1%lo]:1"],
)
def test_of_another_machine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never told a token without TLS, wherever that is from, unless that is meant."""
    assert not is_of_this_machine(address)
    with pytest.raises(InvalidArgument, match=r"token: would go to .* without TLS") as refused:
        connect(["127.0.0.1:7400", address], token=SECRET)
    assert SECRET not in str(refused.value)
    assert connect(address, token=SECRET, plaintext_token=True)._settings.papers.token == SECRET
    assert connect(address, token=SECRET, tls=TLS())._settings.papers.token == SECRET
    monkeypatch.setenv("REGISTRY_TOKEN", SECRET)
    with pytest.raises(InvalidArgument, match=r"token: that of \$REGISTRY_TOKEN would go to .* without TLS"):
        connect(address)
    assert connect(address, token="")._settings.papers == NO_PAPERS


def test_a_registry_inside_of_this_process_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", SECRET)
    assert connect("memory:")._settings.papers == NO_PAPERS
    for given in ({"token": SECRET}, {"tls": TLS()}):
        with pytest.raises(InvalidArgument, match="inside of this process"):
            connect("memory:", **given)  # type: ignore[arg-type]


def test_no_text_shows_it() -> None:
    client = connect("127.0.0.1:7400", token=SECRET)
    assert SECRET not in repr(client._settings)
    assert "PRIVATE" not in repr(TLS(key=b"PRIVATE KEY-----", cert=b""))


# ---- where it is from


def test_a_text_a_file_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setenv("MINE", SECRET)
    assert check_token(SECRET) == check_token("env:MINE") == SECRET
    assert callable(asked := check_token(f"file:{file}"))
    assert asked() == SECRET
    assert check_token(None) is None
    monkeypatch.setenv("REGISTRY_TOKEN", f"file:{file}")
    assert callable(check_token(None))
    assert check_token("") is None


@pytest.mark.parametrize("odd", [7, b"x", "a b", "a\nb", "ä", "x" * 5000, ["x"], True, "\ud800"])
def test_what_is_none(odd: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^token: must be") as refused:
        connect("127.0.0.1:7400", token=odd)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("odd", ["a b", "ä", "x" * 5000, "env:NOWHERE"])
def test_what_the_environment_says_is_told_as_that(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", odd)
    with pytest.raises(InvalidArgument, match=r"^token: \$REGISTRY_TOKEN (must be|env: there is no)"):
        connect("127.0.0.1:7400")


async def test_a_function_is_asked_now_and_then_and_again_when_it_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask() -> str:
        asked.append(threading.current_thread().name)
        return f"{SECRET}{len(asked)}"

    shows = Bearer(ask)
    for _ in range(3):
        assert await shows.metadata() == (("authorization", f"Bearer {SECRET}1"),)
    assert shows.refused()
    assert await shows.metadata() == (("authorization", f"Bearer {SECRET}2"),)
    monkeypatch.setattr(bearer, "FRESH_S", 0.0)
    shows.refused()
    await shows.metadata()
    await shows.metadata()
    await eventually_async(lambda: len(asked) > 3)
    assert "MainThread" not in asked


async def test_who_has_one_text_has_no_other() -> None:
    shows = Bearer(SECRET)
    assert await shows.metadata() == SHOWN
    assert not shows.refused()
    assert await Bearer(None).metadata() == ()


@pytest.mark.parametrize("gives", [7, "", "a b", None])
async def test_a_function_that_gives_none(gives: object) -> None:
    with pytest.raises(RegistryUnavailable, match="the token cannot be had: must be "):
        await Bearer(lambda: gives).metadata()  # type: ignore[arg-type, return-value]


async def test_who_has_none_calls_as_nobody_at_no_time() -> None:
    """Not either before it is asked for again: whoever registers then would own nothing."""
    asked: list[None] = []

    def ask() -> str:
        asked.append(None)
        raise OSError(2, "No such file", "/run/token")

    shows = Bearer(ask)
    for _ in range(3):
        with pytest.raises(RegistryUnavailable, match=r"cannot be had: .*No such file.*/run/token"):
            await shows.metadata()
    assert len(asked) == 1


async def test_a_function_that_raises_is_told_of_without_what_it_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bearer, "FRESH_S", 0.0)
    monkeypatch.setattr(bearer, "AGAIN_S", 0.0)
    good = [SECRET]

    def ask() -> str:
        if good:
            return good.pop()
        raise ValueError(SECRET)

    shows = Bearer(ask)
    for _ in range(5):
        assert await shows.metadata() == SHOWN  # what was good before is shown on
        await passed(0.01)
    await eventually_async(lambda: "ValueError" in caplog.text)
    assert len(caplog.messages) == 1
    with pytest.raises(RegistryUnavailable, match="ValueError") as refused:
        await Bearer(ask).metadata()
    assert SECRET not in caplog.text + str(refused.value)


async def test_a_function_that_blocks_holds_up_its_own_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearer, "PATIENCE_S", 0.05)
    entered, may_end = [0], threading.Event()

    def ask() -> str:
        entered[0] += 1
        may_end.wait(20)
        return SECRET

    shows = Bearer(ask)
    for _ in range(3):
        with pytest.raises(RegistryUnavailable, match="takes too long"):
            await shows.metadata()
    assert entered == [1]
    may_end.set()
    await eventually_async(lambda: shows._shown == SHOWN)


def test_whoever_is_asked_for_too_late_finds_no_loop() -> None:
    may_end = threading.Event()

    def ask() -> str:
        may_end.wait(20)
        return SECRET

    async def give_up() -> None:
        task = asyncio.create_task(Bearer(ask).metadata())
        await passed(0.01)
        task.cancel()

    asyncio.run(give_up())
    may_end.set()


# ---- files


def test_files_that_can_be_used(tmp_path: Path) -> None:
    authority = Authority()
    files, ca = authority.pair("game.example").write(tmp_path), authority.write(tmp_path)
    by_path, by_bytes = TLS(ca, files.cert, files.key), TLS(*(it.read_bytes() for it in (ca, files.cert, files.key)))
    assert by_path.read() == by_bytes.read() == TLS(str(ca), str(files.cert), str(files.key)).read()
    assert TLS().read() == (None, None, None)


def test_files_that_cannot(tmp_path: Path) -> None:
    authority = Authority()
    pair, other = authority.pair("game.example"), authority.pair("game.example")
    files, others = pair.write(tmp_path), other.write(tmp_path, "other")
    (odd := tmp_path / "odd.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n")
    garbage = b"-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----\n"
    (locked := tmp_path / "locked.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for given, told in (
        (lambda: TLS(ca=tmp_path / "none.pem"), r"^tls.ca: .*none.pem: No such file"),
        (lambda: TLS(ca=tmp_path), r"^tls.ca: .*: Is a directory"),
        (lambda: TLS(ca=files.key), r"^tls.ca: .*: there is no certificate in PEM in it"),
        (lambda: TLS(ca=odd), r"^tls.ca: .*odd.pem: cannot be used"),
        (lambda: TLS(ca=b"x"), r"^tls.ca: the bytes: there is no certificate"),
        (lambda: TLS(cert=files.cert, key=files.cert), r"^tls.key: .*: there is no key in PEM in it"),
        (lambda: TLS(cert=files.cert, key=others.key), r"^tls.key: .*other-key.pem: is not the key of .*server.pem"),
        (lambda: TLS(cert=odd, key=files.key), r"^tls.cert: .*odd.pem, .*: cannot be used"),
        (lambda: TLS(cert=pair.cert, key=other.key), r"^tls.key: the bytes: is not the key of tls.cert$"),
        (lambda: TLS(cert=files.cert, key=other.key), r"^tls.key: the bytes: is not the key of .*server.pem$"),
        (lambda: TLS(cert=pair.cert, key=others.key), r"^tls.key: .*other-key.pem: is not the key of tls.cert$"),
        (lambda: TLS(cert=odd.read_bytes(), key=pair.key), r"^tls.cert: the bytes: cannot be used$"),
        (lambda: TLS(cert=pair.cert, key=garbage), r"^tls.key: the bytes: cannot be used$"),
        (lambda: TLS(cert=files.cert, key=locked), r"^tls.key: .*: needs a password"),
        (lambda: TLS(cert=files.cert), r"^tls.key: must be there with tls.cert"),
        (lambda: TLS(key=files.key), r"^tls.cert: must be there with tls.key"),
        (lambda: TLS(ca=7), r"^tls.ca: must be the path of a PEM file, or its bytes, is int"),  # type: ignore[arg-type]
        (lambda: TLS(ca="a\0b"), r"^tls.ca: "),
    ):
        with pytest.raises(InvalidArgument, match=told) as refused:
            connect("h", tls=given())
        assert "\n" not in str(refused.value)


def test_where_bytes_cannot_be_looked_at_they_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without memory or files to spare; gRPC needs none."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    pair = Authority().pair("game.example")
    monkeypatch.setattr(os, "memfd_create", full)
    monkeypatch.setattr(tls, "TemporaryFile", full)
    assert TLS(cert=pair.cert, key=pair.key).read() == (None, pair.cert, pair.key)


# ---- what is said of TLS that does not come about


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER", "speaks no TLS"),
        (
            "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired: OK",
            "not accepted: certificate",
        ),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not accepted (CERTIFICATE_VERIFY_FAILED)"),
        ("CERTIFICATE_VERIFY_FAILED: Hostname mismatch, certificate is not valid for 'h'.", "is for another name"),
        ("UNAUTHENTICATED: Hostname Verification Check failed.", "its certificate is for another name"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "asks for a certificate"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not know the authority of this client's certificate"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "this client's certificate has expired"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "does not accept this client's certificate"),
        ("connection refused", ""),
    ],
)
def test_troubles(text: str, meaning: str) -> None:
    assert meaning in tls_trouble(text)
    assert bool(tls_trouble(text)) == bool(meaning)


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
@pytest.mark.parametrize(
    ("what", "said"), [("pipe", "no regular file"), ("device", "no regular file"), ("folder", ""), ("huge", "larger")]
)
def test_a_file_that_nobody_reads_to_its_end_holds_up_nobody(name: str, what: str, said: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if what == "device" else tmp_path / what
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "huge":
        path.write_bytes(b"-----BEGIN CERTIFICATE----- PRIVATE KEY-----".ljust(2 * 1024 * 1024))
    good = Authority().pair("localhost").write(tmp_path, "good")
    files = {"cert": good.cert, "key": good.key, name: path}
    with pytest.raises(InvalidArgument, match=f"^tls.{name}: .*{what.replace('device', 'zero')}: .*{said}"):
        TLS(**files).read()


def test_files_that_have_not_changed_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold up the event loop with each call that fails."""
    authority, tried = Authority(), list[None]()
    files, ca = authority.pair("localhost").write(tmp_path), authority.write(tmp_path)
    tls = TLS(ca=ca, cert=files.cert, key=files.key)
    before = tls.read()
    context = TLS.context
    monkeypatch.setattr(TLS, "context", lambda self: (tried.append(None), context(self))[1])
    assert tls.read_again(before) is before
    assert tried == []
    authority.pair("localhost").write(tmp_path)
    assert tls.read_again(before) == tls.read() != before


def test_with_an_authority_no_other_one_is_trusted(tmp_path: Path) -> None:
    authority = Authority()
    for ca in (authority.pem, authority.write(tmp_path)):
        assert len(TLS(ca=ca).context().get_ca_certs()) == 1


@pytest.mark.parametrize("begins", [b"\xef\xbb\xbf", b"\xef\xbb\xbf# ours\n", "# Főtanúsítvány\n".encode()])
def test_what_stands_before_a_certificate_in_pem(tmp_path: Path, begins: bytes) -> None:
    """As bytes and as a file; the mark that some editors begin a file with is not shown to gRPC's core."""
    (file := tmp_path / "ca.pem").write_bytes(ca := begins + Authority().pem)
    as_bytes, as_file = TLS(ca=ca).read(), TLS(ca=file).read()
    assert as_bytes == as_file
    assert as_bytes.ca is not None
    assert not as_bytes.ca.startswith(b"\xef\xbb\xbf")
