"""The screen of `registryctl top`: what happened is counted, every size shows something, keys move about in it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_client import Instance
from registry_client.cli.plain import plain
from registry_client.cli.top.board import MOST_EVENTS, OVER_S, Board, Rate
from registry_client.cli.top.columns import Moment, age_text
from registry_client.cli.top.keys import Keys
from registry_client.cli.top.viewer import Standing, Viewer
from registry_client.instance import Cause, Removed
from registry_client.view import Changes, View

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NOW = Moment(1000.0, NOON)
HERE = Standing("h1:7400", "namespace default")
EVIL = "a\x1b[2J\r\n\u202eb"


def instance(name: str, service: str = "player", **fields: object) -> Instance:
    made = Instance(service, "10.0.0.5", 8001, name, "default")
    return replace(made, registered_at=NOON - timedelta(minutes=5), **fields)  # type: ignore[arg-type]


def view_of(*there: Instance, changes: Changes | None = None) -> View:
    return View({it.key: it for it in there}, "e", 7, None, changes or Changes())


def board(*there: Instance) -> Board:
    made = Board()
    made.take(view_of(*there), NOW.now_s, NOON)
    return made


def text(viewer: Viewer, width: int = 120, height: int = 30, moment: Moment = NOW, state: Standing = HERE) -> str:
    return "\n".join(line.plain.rstrip() for line in viewer.lines(width, height, moment, state))


PLAYERS = [instance(f"p{number:02}") for number in range(40)]


# ---- what is counted


def test_what_was_there_at_first_did_not_happen_just_now() -> None:
    made = board(*PLAYERS)
    assert (list(made.events), made.rate.per_s) == ([], 0.0)
    [service] = made.service_rows()
    assert (service.instances, service.routable, service.changed_s) == (40, 40, None)


def test_services_are_counted_and_timed() -> None:
    ill, away = instance("b", health="CRITICAL"), instance("c", status="DRAINING")
    made = board(instance("a", health="HEALTHY"), ill, away, instance("x", "chat"))
    later = instance("a", health="HEALTHY", weight=3)
    made.take(view_of(later, ill, away, changes=Changes(updated=(later,))), NOW.now_s + 5, NOON)
    [player] = made.service_rows()
    assert (player.instances, player.routable, player.healthy, player.critical, player.draining) == (3, 1, 1, 1, 1)
    assert player.changed_s == NOW.now_s + 5
    assert player.as_dict(NOW.now_s + 5)["changesPerSecond"] == 1 / OVER_S
    assert made.changed_s(later.key) == NOW.now_s + 5
    assert made.changed_s(ill.key) is None


@given(st.lists(st.floats(0.01, 30), max_size=200))
def test_a_rate_is_what_happens_in_its_time(pauses: list[float]) -> None:
    rate, now = Rate(), 0.0
    for pause in pauses:
        now += pause
        rate = rate.after(1, now)
        assert 0 < rate.now(now) <= (len(pauses) + 1) / OVER_S
    assert rate.now(now + 100 * OVER_S) < 1e-6


def test_a_steady_rate_is_found() -> None:
    rate = Rate()
    for number in range(1000):
        rate = rate.after(1, number / 5)
    assert rate.now(200) == pytest.approx(5, rel=0.05)


def test_nothing_is_kept_of_what_has_gone() -> None:
    """However many come and go."""
    made = board()
    for number in range(1000):
        it = instance(f"i{number}", f"s{number}")
        made.take(view_of(it, changes=Changes(added=(it,))), number, NOON)
        assert len(made.service_rows()) == 1
        gone = Removed.of(it, Cause.EXPIRED)
        made.take(view_of(changes=Changes(removed=(gone,))), number, NOON)
        assert made.service_rows() == []
    assert len(made.events) == MOST_EVENTS
    assert not any((made._rates, made._service_changed_s, made._changed_s))


# ---- what is shown


def test_services_with_what_happened_to_them() -> None:
    made = board(instance("a"), instance("b", health="UNHEALTHY"))
    changed = instance("a", weight=3)
    made.take(view_of(changed, changes=Changes(updated=(changed,), removed=(Removed.of(PLAYERS[1], Cause.EXPIRED),))),
              NOW.now_s + 2, NOON)  # fmt: skip
    shown = text(Viewer(made), moment=Moment(NOW.now_s + 3, NOON))
    assert "1 service, 1 instance, 1 routable, 0.2 changes/s, revision 7" in shown
    assert "> player" in shown
    assert "player/a updated: weight 100 → 3" in shown
    assert "player/p01 expired" in shown


def test_before_anything_is_known_nothing_is_counted() -> None:
    state = HERE._replace(trouble="h1:7400: connection refused")
    shown = text(Viewer(Board()), state=state)
    assert "waiting for the registry" in shown
    assert "! h1:7400: connection refused" in shown
    assert "0 services" not in shown
    assert "nothing is registered" in text(Viewer(board()))


def test_what_is_known_stays_while_the_registry_is_away() -> None:
    shown = text(Viewer(board(*PLAYERS)), state=HERE._replace(trouble="connection refused", stale_for=130.0))
    assert "! as of 2m ago: connection refused" in shown
    assert "player" in shown


@given(st.integers(1, 200), st.integers(1, 60), st.lists(st.sampled_from(["down", "enter", "s", "r", "end", "escape"])))
def test_every_size_is_kept_to(width: int, height: int, keys: list[str]) -> None:
    viewer = Viewer(board(*PLAYERS, instance("é" * 300, "größe" * 20)))
    for key in ["", *keys]:
        viewer.press(key)
        lines = viewer.lines(width, height, NOW, HERE)
        assert 1 <= len(lines) <= height
        if width >= 40 and height >= 6:
            assert any(line.plain.startswith(">") for line in lines)


def test_what_gets_narrow_loses_what_is_needed_least() -> None:
    viewer = Viewer(board(*PLAYERS))
    wide, narrow, least = (text(viewer, width=width).splitlines()[3].split() for width in (120, 50, 12))
    assert wide[-1] == "NEWEST"
    assert narrow == ["SERVICE*", "INSTANCES", "ROUTABLE", "CHANGED"]
    assert least == ["SERVICE*"] or least == ["SERVICE*", "INSTANCES"]


def test_what_others_wrote_does_nothing() -> None:
    odd = replace(instance("a"), service=EVIL, id=EVIL, version=EVIL)
    made = board(odd)
    made.take(view_of(odd, changes=Changes(updated=(odd,))), NOW.now_s, NOON)
    state = Standing(EVIL, EVIL, EVIL, 3.0, EVIL)
    for viewer in (Viewer(made), Viewer(made, all_namespaces=True), Viewer(made, name=("default", EVIL))):
        lines = [line.plain for line in viewer.lines(500, 40, NOW, state)]
        assert all(line.isprintable() for line in lines)
        assert any(plain(EVIL) in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0s"), (0.4, "0s"), (99, "99s"), (100, "1m"), (6000, "1h"), (47 * 3600, "47h"), (50 * 3600, "2d")],
)
def test_ages(seconds: float, said: str) -> None:
    assert age_text(seconds) == said


# ---- keys


def chosen(viewer: Viewer) -> str:
    return next(line.split()[1] for line in text(viewer).splitlines() if line.startswith(">"))


def test_the_chosen_one_stays_chosen_wherever_it_goes() -> None:
    made = board(*PLAYERS)
    viewer = Viewer(made, name=("default", "player"))
    assert chosen(viewer) == "p00"
    for keys, name in ((["down", "j", "up"], "p01"), (["end"], "p39"), (["page up"], "p22"), (["home", "down"], "p01")):
        for key in keys:
            viewer.press(key)
        assert chosen(viewer) == name
    viewer.press("r")
    assert chosen(viewer) == "p01"
    made.take(view_of(*PLAYERS[:1], *PLAYERS[2:]), NOW.now_s, NOON)
    assert chosen(viewer) == "p00"  # the order is turned round: it follows the one that went
    made.take(view_of(), NOW.now_s, NOON)
    assert "no instance is registered" in text(viewer)
    viewer.press("down")


def test_enter_shows_instances_and_escape_the_services() -> None:
    viewer = Viewer(board(*PLAYERS, instance("x", "chat")))
    assert chosen(viewer) == "chat"
    assert viewer.press("enter")
    assert chosen(viewer) == "x"
    assert viewer.press("escape")
    assert chosen(viewer) == "chat"
    assert not viewer.press("q")


def test_rows_are_sorted_by_every_column() -> None:
    viewer = Viewer(board(*PLAYERS, instance("x", "chat")))
    marks = set()
    for _ in range(20):
        viewer.press("s")
        marks |= {word for word in text(viewer).splitlines()[3].split() if word.endswith("*")}
    assert len(marks) == 10


def test_the_largest_number_stands_first() -> None:
    viewer = Viewer(board(*PLAYERS, instance("x", "chat")))
    assert chosen(viewer) == "chat"
    viewer.press("s")
    assert chosen(viewer) == "player"
    viewer.press("r")
    assert chosen(viewer) == "chat"


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ([b"q"], ["q"]),
        ([b"\x1b[A\x1bOB"], ["up", "down"]),
        ([b"\x1b", b""], ["escape"]),
        ([b"\x1b[", b"5~"], ["page up"]),
        ([b"\r\n"], ["enter", "enter"]),
        ([b"\x1b[1;5C\x00\xff\x07s"], ["\ufffd", "s"]),
        ([b"\x1b[" + b"1" * 1000 + b"~q"], ["q"]),
    ],
)
def test_keys(sent: list[bytes], keys: list[str]) -> None:
    made = Keys()
    assert [key for data in sent for key in made.feed(data)] == keys


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_no_bytes_are_too_odd(sent: list[bytes]) -> None:
    made, viewer = Keys(), Viewer(board(*PLAYERS))
    for data in sent:
        for key in made.feed(data):
            viewer.press(key)
    assert viewer.lines(80, 24, NOW, HERE)
    assert len(made._pending) < 100
