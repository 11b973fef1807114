"""URLs of ZooKeeper: what they say, and one line for each mistake, which quotes nothing of the URL."""

from pathlib import Path

import pytest

from registry_server.stores import BadStoreURL, check_url, has_password
from registry_server.stores.urls import TLS, Login
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.stores.zookeeper.znodes import Znodes


@pytest.mark.parametrize(
    ("url", "endpoints", "home"),
    [
        ("zookeeper://zk", ("zk:2181",), "/grpc-registry"),
        ("zookeeper://zk/", ("zk:2181",), "/grpc-registry"),
        ("zookeeper://zk1,zk2:2182,[::1]", ("zk1:2181", "zk2:2182", "[::1]:2181"), "/grpc-registry"),
        ("zookeeper://zk/game/eu", ("zk:2181",), "/game/eu/grpc-registry"),
        ("zookeeper://zk/game/eu/", ("zk:2181",), "/game/eu/grpc-registry"),
        ("zookeeper://zk/gr%C3%B6%C3%9Fe", ("zk:2181",), "/größe/grpc-registry"),
    ],
)
def test_hosts_and_chroot(url: str, endpoints: tuple[str, ...], home: str) -> None:
    parsed = ZooKeeperURL.parse(url)
    assert (parsed.endpoints, parsed.home, parsed.login, parsed.tls) == (endpoints, home, None, None)
    assert not has_password(url)


def test_user_and_files(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key", "secret"):
        (tmp_path / name).write_text(name)
    url = (
        f"zookeeper://game@zk?password_file={tmp_path}/secret&ca={tmp_path}/ca&cert={tmp_path}/cert&key={tmp_path}/key"
    )
    parsed = ZooKeeperURL.parse(url)
    assert parsed.login == Login("game", None, tmp_path / "secret")
    assert parsed.tls == TLS(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    assert not has_password(url)
    assert has_password("zookeeper://game:secret@zk")
    assert ZooKeeperURL.parse("zookeeper://zk?tls=true").tls == TLS()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("zookeeper:", "starts with zookeeper://"),
        ("zookeeper://", "the 1st address"),
        ("zookeeper://zk,,zk2", "the 2nd address"),
        ("zookeeper://zk:0", "the port of the 1st address"),
        ("zookeeper://zk:port", "the port of the 1st address"),
        ("zookeeper://zk//x", "the chroot is no path"),
        ("zookeeper://zk/a//b", "the chroot is no path"),
        ("zookeeper://zk/a/../b", "the chroot is no path"),
        ("zookeeper://zk/.", "the chroot is no path"),
        ("zookeeper://zk/a%00", "the chroot is no path"),
        ("zookeeper://zk/a%EF%BF%BF", "the chroot is no path"),
        ("zookeeper://zk/%zz", "the chroot has a '%'"),
        ("zookeeper://zk/zookeeper/x", "not below /zookeeper"),
        ("zookeeper://zk?chroot=/x", "the 1st parameter is none of"),
        ("zookeeper://zk?password=secret", "a password needs a user"),
        ("zookeeper://game@zk", "user needs a password"),
        ("zookeeper://a%3Ab:secret@zk", "no ':' in the name"),
        ("zookeeper://zk?tls=maybe", "tls is neither"),
        ("zookeeper://zk?ca=/does/not/exist", "ca: there is no readable file"),
        ("zookeeper://zk#x", "nothing follows a '#'"),
    ],
)
def test_mistakes(url: str, says: str) -> None:
    with pytest.raises(BadStoreURL) as refused:
        check_url(url)
    assert says in str(refused.value)
    for secret in ("secret", "exist", "zz"):
        assert secret not in str(refused.value)


async def test_a_file_of_tls_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (file := tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(OSError, match=r"^ca: .*ca\.pem: "):
        Znodes(ZooKeeperURL.parse(f"zookeeper://h?ca={file}"), 0)
