"""What a client of ZooKeeper holds goes with it, however its session ends."""

import pytest

from registry_server.stores.zookeeper.znodes import Znodes


class Lost:
    """A client of kazoo that cannot say goodbye."""

    def __init__(self, *fails: str) -> None:
        self.asked: list[str] = []
        self._fails = fails

    def stop(self) -> None:
        self._do("stop")

    def close(self) -> None:
        self._do("close")

    def _do(self, what: str) -> None:
        self.asked.append(what)
        if what in self._fails:
            raise OSError(what)


@pytest.mark.parametrize("fails", [(), ("stop",), ("close",), ("stop", "close")])
def test_a_session_that_was_lost_leaves_no_sockets_behind(fails: tuple[str, ...]) -> None:
    znodes, client, told = Znodes.__new__(Znodes), Lost(*fails), list[object]()
    vars(znodes).update(_client=client, _in_loop=lambda *it: told.append(it))
    znodes._end(None)  # type: ignore[arg-type]
    assert client.asked == ["stop", "close"]
    assert len(told) == 1, "who waits for it hears of it"
