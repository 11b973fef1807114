"""Who has to go when there are too many connections."""

import random
from dataclasses import dataclass

from registry_server.limits.quotas import MAX_QUOTA, PER_PEER
from registry_server.transport.http2.crowd import AT_ONCE, Crowd

NEAR = "ipv4:127.0.0.1:7"


@dataclass(eq=False)
class Member:
    is_busy: bool = False
    idleness: int = 0


def crowd(limit: int = 10, per_peer: int = 0) -> Crowd[Member]:
    return Crowd(limit, per_peer, random.Random(1))


def of(number: int) -> str:
    return f"ipv4:10.0.0.{number}:1"


def test_there_is_room() -> None:
    all_ = crowd()
    for number in range(10):
        all_.add(newcomer := Member(), of(number))
        assert all_.to_go(newcomer) == ()


def test_who_has_been_without_a_call_for_longest_goes() -> None:
    all_ = crowd()
    members = [Member(is_busy=number % 2 == 0, idleness=number) for number in range(10)]
    for number, it in enumerate(members):
        all_.add(it, of(number))
    all_.add(newcomer := Member(idleness=0), of(99))
    assert all_.to_go(newcomer) == [members[9]]


def test_of_the_idle_those_go_whose_peer_has_most() -> None:
    all_ = crowd()
    old = Member(idleness=1000)
    all_.add(old, of(1))
    for _ in range(9):
        all_.add(Member(idleness=1), of(2))
    all_.add(newcomer := Member(), of(3))
    (leaves,) = all_.to_go(newcomer)
    assert all_.all[leaves] == "ipv4:10.0.0.2"


def test_of_the_busy_those_go_whose_peer_has_most() -> None:
    all_ = crowd()
    for number in (1, *[2] * 8, 3):
        all_.add(Member(is_busy=True), of(number))
    all_.add(newcomer := Member(), of(4))
    (leaves,) = all_.to_go(newcomer)
    assert all_.all[leaves] == "ipv4:10.0.0.2"


def test_the_newcomer_goes_where_there_is_nobody_else() -> None:
    all_ = crowd(limit=1, per_peer=5)
    all_.add(Member(is_busy=True), of(1))
    all_.add(newcomer := Member(), of(1))
    assert newcomer not in all_.to_go(newcomer)


def test_looking_for_many_is_bounded() -> None:
    all_ = crowd(limit=20_000)
    for _ in range(20_001):
        all_.add(newcomer := Member(), NEAR)
    assert len(all_.to_go(newcomer)) == AT_ONCE


def test_a_peer_may_have_so_many() -> None:
    all_ = crowd(limit=1000, per_peer=3)
    members = [Member() for _ in range(7)]
    for it in members[:3]:
        all_.add(it, of(1))
        assert not all_.exceeds(it)
    all_.add(members[3], "ipv6:[::ffff:10.0.0.1]:9")
    assert all_.exceeds(members[3]), "the same host, whatever the port and how it is written"
    assert not all_.exceeds(members[3], 2)
    all_.add(members[4], of(2))
    assert not all_.exceeds(members[4])
    all_.remove(members[0])
    all_.remove(members[0])
    assert not all_.exceeds(members[3])


def test_without_a_limit_of_ones_own_it_is_the_usual_one_and_none_for_this_machine() -> None:
    all_ = crowd(limit=1000)
    all_.add(near := Member(), NEAR)
    all_.add(at_file := Member(), "unix:5")
    all_.add(far := Member(), of(1))
    assert [all_.limit_of(it) for it in (near, at_file, far)] == [MAX_QUOTA, MAX_QUOTA, PER_PEER]
    assert crowd_limit(7, NEAR) == crowd_limit(7, of(1)) == 7


def crowd_limit(per_peer: int, address: str) -> int:
    all_ = crowd(per_peer=per_peer)
    all_.add(it := Member(), address)
    return all_.limit_of(it)


def test_nothing_is_left_of_who_is_gone() -> None:
    all_ = crowd()
    members = [Member() for _ in range(5)]
    for number, it in enumerate(members):
        all_.add(it, of(number // 2))
    for it in members:
        all_.remove(it)
    assert not all_.all
    assert not all_._peers
