"""CORE: numbers and times as people read them, and names that are like another one."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from heapq import nlargest

from google.protobuf.timestamp_pb2 import Timestamp

# A name that is less like the one that was meant is none that somebody mistook for it.
LEAST_LIKENESS = 0.5
MAX_SIMILAR = 5
# One name within another is like it, unless it is shorter than that.
MIN_WITHIN, WITHIN_LIKENESS = 3, 0.7
# More of names is not compared, which takes time by the product of their lengths.
MAX_COMPARED = 64
# Letters of what is told in a line.
MAX_LINE = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def span(seconds: float) -> str:
    """A time span in its two largest units: `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    seconds = max(0.0, seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for place, (unit, size) in enumerate(_UNITS):
        if whole >= size:
            smaller, of = (*_UNITS, ("s", 1))[place + 1]
            rest = whole % size // of
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    raise AssertionError  # it is a minute or more


def clock(at_s: float) -> str:
    """A time in seconds since 1970: `2026-11-26T04:50:07Z`. What no calendar can say is a question mark."""
    try:
        return f"{_EPOCH + timedelta(seconds=at_s):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):
        return "?"


def since(at: Timestamp, now_s: float) -> str:
    """A time, and how long ago that was: `2026-11-26T04:50:07Z (3.2 s ago)`."""
    at_s = at.seconds + at.nanos / 1e9
    return f"{clock(at_s)} ({span(now_s - at_s)} ago)"


def line(text: str) -> str:
    """What others wrote, in one line and of bounded length."""
    shown = text if text.isprintable() else "".join(it if it.isprintable() else " " for it in text[: 2 * MAX_LINE])
    return shown if len(shown) <= MAX_LINE else f"{shown[:MAX_LINE]}…"


def count(number: int, one: str) -> str:
    """`1 instance`, `2 instances`."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


class Likeness:
    """Finds the names that are most like one. To be given all there are, some at a time."""

    def __init__(self, name: str) -> None:
        self._matcher: SequenceMatcher[str] = SequenceMatcher(autojunk=False)
        self._name = name[:MAX_COMPARED].lower()
        self._matcher.set_seq2(self._name)
        self._found: list[tuple[float, str]] = []

    def look(self, names: Iterable[tuple[str, str]]) -> None:
        """Compare these names; beside each stands how it is shown."""
        self._found += self._alike(names)
        if len(self._found) > MAX_SIMILAR:
            self._found = nlargest(MAX_SIMILAR, self._found, key=_first)

    def best(self) -> list[str]:
        """The likeliest first, as they are shown."""
        return [shown for _, shown in nlargest(MAX_SIMILAR, self._found, key=_first)]

    def _alike(self, names: Iterable[tuple[str, str]]) -> Iterator[tuple[float, str]]:
        for name, shown in names:
            likeness = self._likeness(name[:MAX_COMPARED].lower())
            if likeness >= LEAST_LIKENESS:
                yield likeness, shown

    def _likeness(self, name: str) -> float:
        """0 for a name that is too little like it, else up to 1."""
        matcher = self._matcher
        is_within = min(len(name), len(self._name)) >= MIN_WITHIN and (name in self._name or self._name in name)
        least = WITHIN_LIKENESS if is_within else 0.0
        matcher.set_seq1(name)
        # From the cheapest to the dearest; each of the first two is never less than the one after it.
        if matcher.real_quick_ratio() < LEAST_LIKENESS or matcher.quick_ratio() < LEAST_LIKENESS:
            return least
        return max(least, matcher.ratio())


def _first(item: tuple[float, str]) -> float:
    return item[0]
