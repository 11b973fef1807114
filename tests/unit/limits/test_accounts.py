"""What one peer has under way: it is refused what is too much, by name, and has room again when something is over."""

import pytest

from registry_server.errors import LimitExceeded
from registry_server.limits import accounts
from registry_server.limits.accounts import Accounts
from registry_server.limits.quotas import Quotas


def refused(subject: str) -> object:
    return pytest.raises(LimitExceeded, match=f"^{subject}: ")


def test_requests_a_second_come_back_with_time() -> None:
    account = Accounts(Quotas(max_requests_per_s_per_peer=10)).of("a", 0.0)
    for _ in range(20):
        account.ask(0.0)
    with refused("max_requests_per_s_per_peer"):
        account.ask(0.0)
    with refused("max_requests_per_s_per_peer"):
        account.ask(0.09)
    account.ask(0.21)
    account.ask(0.21)
    with refused("max_requests_per_s_per_peer"):
        account.ask(0.21)
    for _ in range(20):  # no more than a burst, however long it was silent
        account.ask(1000.0)
    with refused("max_requests_per_s_per_peer"):
        account.ask(1000.0)


def test_requests_that_are_being_answered() -> None:
    account = Accounts(Quotas(max_requests_per_peer=2)).of("a", 0.0)
    account.requests = 2
    with refused("max_requests_per_peer"):
        account.ask(0.0)
    account.requests = 1
    account.ask(0.0)


def test_watches_of_a_peer_and_of_all() -> None:
    all_ = Accounts(Quotas(max_watches=3, max_watches_per_peer=2))
    one, other = all_.of("a", 0.0), all_.of("b", 0.0)
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
    all_ = Accounts(Quotas(max_filters_per_peer=2))
    account = all_.of("a", 0.0)
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
    all_ = Accounts(Quotas())
    busy = all_.of("busy", 0.0)
    all_.watch(busy, None)
    for number in range(1000):
        all_.of(f"{number}", 0.0)
    assert len(all_) <= 20
    assert all_.of("busy", 0.0) is busy
