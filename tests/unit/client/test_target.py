"""Addresses and `registry://` URLs."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_client.addresses import parse_addresses, parse_endpoint
from registry_client.errors import InvalidTarget
from registry_client.target import Target, parse_target


@pytest.mark.parametrize(
    ("given_", "parsed"),
    [
        ("127.0.0.1:7400", ("127.0.0.1:7400",)),
        ("h1:1, h2:2", ("h1:1", "h2:2")),
        (["h1:1", "h2"], ("h1:1", "h2:7400")),
        ("registry.example.org", ("registry.example.org:7400",)),
        ("[::1]:7400,[fe80::1%eth0]:2", ("[::1]:7400", "[fe80::1%eth0]:2")),
        ("h:1,h:1", ("h:1",)),
        ("unix:/run/a.sock, h:1,unix:///b,unix:c", ("unix:/run/a.sock", "h:1", "unix:/b", "unix:c")),
        (["unix:/run/a,b"], ("unix:/run/a,b",)),
    ],
)
def test_addresses(given_: str | list[str], parsed: tuple[str, ...]) -> None:
    assert parse_addresses(given_) == parsed


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "h:1,",
        ":1",
        "h:0",
        "h:65536",
        "h:p",
        "::1:7400",
        "http://h:1",
        "h:1/x",
        "a b:1",
        [],
        "unix:",
        "unix://h/x",
        "unix:/a\0",
        "\udcff:1",
        "\ud800",
    ],
)
def test_a_wrong_address_is_named(wrong: str | list[str]) -> None:
    with pytest.raises(InvalidTarget, match="address"):
        parse_addresses(wrong)


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("2001:db8::1:2:8001", ["[2001:db8::1:2]:8001", "[2001:db8::1:2:8001]:PORT"]),
        ("::1:7400", ["[::1]:7400", "[::1:7400]:PORT"]),
        ("2001:db8::1", ["[2001:db8::1]:PORT"]),
        ("1:2:3:4:5:6:7:8:7400", ["[1:2:3:4:5:6:7:8]:7400"]),
    ],
)
def test_an_ipv6_address_without_brackets_is_refused_with_how_to_write_it(text: str, ways: list[str]) -> None:
    for parse in (parse_addresses, parse_endpoint, lambda text: parse_target(f"registry://{text}/player")):
        with pytest.raises(InvalidTarget) as caught:
            parse(text)
        assert all(way in str(caught.value) for way in ways)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("10.0.0.5:8001", ("10.0.0.5", 8001)), ("[::1]:1", ("::1", 1)), ("h.example:65535", ("h.example", 65535))],
)
def test_where_an_instance_listens(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "wrong", ["10.0.0.5", "[::1]", "h:0", "h:65536", "10.0.0.555:1", "[fe80::1%eth0]:1", "a b:1", ""]
)
def test_where_nothing_can_listen(wrong: str) -> None:
    with pytest.raises(InvalidTarget, match="address"):
        parse_endpoint(wrong)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("registry://h:1/player", Target(("h:1",), "player")),
        ("registry://h1:7400,h2:7400/prod/player", Target(("h1:7400", "h2:7400"), "player", "prod")),
        ("registry://h/player?", Target(("h:7400",), "player")),
        (
            "registry://h:1/player?policy=random&x=a%26b",
            Target(("h:1",), "player", options={"policy": "random", "x": "a&b"}),
        ),
        ("registry://[::1]:1/a.b:c@d~e+f-g", Target(("[::1]:1",), "a.b:c@d~e+f-g")),
        (
            "registry://unix:%2Frun%2Fa%2Cb,h:1|unix:c/player",
            Target(("unix:/run/a,b", "h:1", "unix:c"), "player", first=2),
        ),
    ],
)
def test_targets(url: str, target: Target) -> None:
    assert parse_target(url) == target


def test_a_path_in_a_url_is_told_how_to_be_written() -> None:
    with pytest.raises(InvalidTarget, match=r"each / of a unix:PATH is %2F"):
        parse_target("registry://unix:/run/registry.sock/player")


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_a_clear_refusal(text: str) -> None:
    for url in (text, f"registry://{text}", f"registry://h:1/{text}", f"registry://h:1/player?{text}"):
        target: Target | None = None
        with contextlib.suppress(InvalidTarget):
            target = parse_target(url)
        assert target is None or (target.addresses and target.service)
