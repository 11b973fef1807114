"""Consul's URLs: what each part means, and what is said of a mistake."""

from pathlib import Path

import pytest

from registry_server.stores import BadStoreURL, check_url, has_password
from registry_server.stores.consul.url import ConsulURL


def test_all_parts() -> None:
    url = ConsulURL.parse(
        "consul://one,two:8501,[::1]:8502?token=secret&datacenter=dc1&prefix=a/b&catalog=false&namespace=prod&name=left&tls=true"
    )
    assert url.endpoints == ("one:8500", "two:8501", "[::1]:8502")
    assert (url.read_token(), url.datacenter, url.prefix, url.namespace, url.name) == (
        "secret",
        "dc1",
        "a/b",
        "prod",
        "left",
    )
    assert url.tls is not None
    assert not url.shows_catalog
    assert "secret" not in repr(url)


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    (file := tmp_path / "token").write_text("first\n")
    url = ConsulURL.parse(f"consul://one?token_file={file}")
    assert url.read_token() == "first"
    file.write_text("second")
    assert url.read_token() == "second"


@pytest.mark.parametrize("text", [b"secret\nsecret", b"secret\0", b"s\xc3\xa9cret", b"\xff"])
def test_a_file_that_is_no_token_is_named_and_not_quoted(text: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "token").write_bytes(text)
    with pytest.raises(OSError, match="token: is no token") as refused:
        ConsulURL.parse(f"consul://one?token_file={file}").read_token()
    assert "cret" not in str(refused.value)


def test_whether_it_shows_a_token() -> None:
    assert has_password("consul://one?token=secret")
    assert not has_password("consul://one")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("consul:one", "starts with consul://"),
        ("consul://user:secret@one", "Consul has no users"),
        ("consul://one/secret", "a path has no meaning"),
        ("consul://one?tokn=secret", "nearest: token"),
        ("consul://one?token=secret&token_file=/etc/hosts", "token is given twice"),
        ("consul://one?token=sec%0Aret", "token has a character that no token has"),
        ("consul://one?token_file=/no/secret", "no readable file"),
        ("consul://one?catalog=maybe", "catalog is neither true nor false"),
        ("consul://one?prefix=/secret", "prefix must be names"),
        ("consul://one?namespace=a%20secret", "namespace is no name of one"),
        ("consul://one:0", "the port of the 1st address"),
    ],
)
def test_mistakes_are_named_and_not_quoted(url: str, says: str) -> None:
    with pytest.raises(BadStoreURL, match=says) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)
