"""Who is counted as one."""

import pytest

from registry_server.limits.peers import is_near, peer_of


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("ipv4:10.0.0.5:50123", "ipv4:10.0.0.5"),
        ("ipv6:[::ffff:10.0.0.5]:50123", "ipv4:10.0.0.5"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:50123", "ipv6:[2001:db8:1:2::/64]"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50123", "ipv6:[2001:db8:1:2::/64]"),
        ("ipv6:[fe80::1%eth0]:50123", "ipv6:[fe80::/64]"),
        ("ipv4:127.0.0.1:50123", "ipv4:127.0.0.1:50123"),
        ("ipv4:127.8.8.8:50123", "ipv4:127.8.8.8:50123"),
        ("ipv6:[::1]:50123", "ipv6:[::1]:50123"),
        ("ipv6:[::ffff:127.0.0.1]:7", "ipv6:[::ffff:127.0.0.1]:7"),
        ("unix:17", "unix:17"),
        ("unix:", "unix:"),
        ("", ""),
        ("ipv4:", "ipv4:"),
        ("vsock:3:4", "vsock:3:4"),
    ],
)
def test_who_is_counted_as_one(address: str, peer: str) -> None:
    assert peer_of(address) == peer
    assert is_near(address) is (peer == address)
