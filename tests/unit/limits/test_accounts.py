"""What one peer has under way: it is refused what is too much, by name, and has room again when something is over."""

import pytest

from registry_server.errors import LimitExceeded
from registry_server.limits import accounts
from registry_server.limits.accounts import Accounts
from registry_server.limits.quotas import Quotas


def refused(subject: str) -> object:
    return pytest.raises(LimitExceeded, match=f"^{subject}: ")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_requests_a_second_come_back_with_time() -> None:
    clock = Clock()
    account = Accounts(Quotas(max_requests_per_s_per_peer=10), clock).of("a")
    for _ in range(20):
        account.ask()
    with refused("max_requests_per_s_per_peer"):
        account.ask()
    clock.now = 0.09
    with refused("max_requests_per_s_per_peer"):
        account.ask()
    clock.now = 0.21
    account.ask()
    account.ask()
    with refused("max_requests_per_s_per_peer"):
        account.ask()
    clock.now = 1000.0
    for _ in range(20):  # no more than a burst, however long it was silent
        account.ask()
    with refused("max_requests_per_s_per_peer"):
        account.ask()


def test_requests_that_are_being_answered() -> None:
    account = Accounts(Quotas(max_requests_per_peer=2), Clock()).of("a")
    account.requests = 2
    with refused("max_requests_per_peer"):
        account.ask()
    account.requests = 1
    account.ask()


def test_watches_of_a_peer_and_of_all() -> None:
    all_ = Accounts(Quotas(max_watches=3, max_watches_per_peer=2), Clock())
    one, other = all_.of("a"), all_.of("b")
    all_.watch(one, None)
    all_.watch(one, None)
    with refused("max_watches_per_peer"):
        all_.watch(one, None)
    all_.watch(other, None)
    with refused("max_watches"):
        all_.watch(other, None)
    assert all_.watches == 3
    all_.leave(one, None)
    all_.watch(other, None)


def test_the_same_filter_counts_once() -> None:
    all_ = Accounts(Quotas(max_filters_per_peer=2), Clock())
    account = all_.of("a")
    for question in ("x", "x", "y", None):
        all_.watch(account, question)
    with refused("max_filters_per_peer"):
        all_.watch(account, "z")
    assert (account.watches, all_.watches) == (4, 4), "what is refused counts nowhere"
    all_.leave(account, "x")
    with refused("max_filters_per_peer"):
        all_.watch(account, "z")
    all_.leave(account, "x")
    all_.watch(account, "z")


def test_peers_that_do_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", 10)
    all_ = Accounts(Quotas(), Clock())
    busy = all_.of("busy")
    all_.watch(busy, None)
    for number in range(1000):
        all_.of(f"{number}")
    assert len(all_) <= 20
    assert all_.of("busy") is busy
