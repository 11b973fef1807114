"""What stores keep of who left, and by whom: it comes back as it went, and what others wrote there is nobody's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.records import UNSAID, Author, Cause, Commit, Delete, Deleted
from registry_server.stores.leased import layout
from registry_server.stores.names import path_of
from registry_server.stores.parting import MAX_PART, Parting, packed
from tests.support.core import key

AUTHORS = st.builds(Author, *[st.text(max_size=20)] * 3)
KEYS = [key("one"), key("two"), key("three")]


@given(st.sampled_from(Cause), AUTHORS)
def test_of_one_commit_all_have_its_author(cause: Cause, author: Author) -> None:
    commit = Commit(deletes=tuple(Delete(it, 7) for it in KEYS), cause=cause, author=author)
    found = Parting.read(packed([commit]))
    assert found is not None
    assert [found.of(it) for it in KEYS] == [Deleted(it, cause, author) for it in KEYS]


@given(st.lists(AUTHORS, min_size=2, max_size=3))
def test_of_several_commits_each_has_its_own(authors: list[Author]) -> None:
    commits = [
        Commit(deletes=(Delete(it, 7),), cause=Cause.DRAINED, author=author)
        for it, author in zip(KEYS, authors, strict=False)
    ]
    found = Parting.read(packed(commits))
    assert found is not None
    assert [found.of(it).author for it in KEYS] == [*authors, *[UNSAID] * (len(KEYS) - len(authors))]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"expired", Deleted(KEYS[0], Cause.EXPIRED)),  # as it was written before authors were
        (b"drained\n", Deleted(KEYS[0], Cause.DRAINED)),
        (b"drained\nops", Deleted(KEYS[0], Cause.DRAINED)),
        (b"drained\n[1, 2]", Deleted(KEYS[0], Cause.DRAINED)),
        (b"drained\n{", Deleted(KEYS[0], Cause.DRAINED)),
        (b'drained\n{"identity": 7, "peer": null, "more": "x"}', Deleted(KEYS[0], Cause.DRAINED)),
        (b'drained\n{"identity": "ops"}\tnowhere', Deleted(KEYS[0], Cause.DRAINED)),
        (b"drained\n" + b"[" * 100_000, Deleted(KEYS[0], Cause.DRAINED)),
        (b"drained\n\xff\xfe", Deleted(KEYS[0], Cause.DRAINED)),
        (
            b'drained\n{"identity": "o\\ud800ps", "peer": "\\udfff"}',
            Deleted(KEYS[0], Cause.DRAINED, Author("o?ps", "?")),
        ),
    ],
)
def test_what_somebody_else_wrote_is_nobody(value: bytes, expected: Deleted) -> None:
    found = Parting.read(value)
    assert found is not None
    assert found.of(KEYS[0]) == expected


@pytest.mark.parametrize("value", [b"", b"nonsense", b"\xff", b'{"identity": "ops"}'])
def test_no_cause_is_none(value: bytes) -> None:
    assert Parting.read(value) is None


def test_what_is_kept_is_bounded() -> None:
    long = Author("x" * 10_000, "y" * 10_000, "z" * 10_000)
    found = Parting.read(packed([Commit(deletes=(Delete(KEYS[0], 7),), author=long)]))
    assert found is not None
    assert found.of(KEYS[0]).author == Author("x" * MAX_PART, "y" * MAX_PART, "z" * MAX_PART)


@given(AUTHORS)
def test_a_layout_of_lines_has_the_author_among_them(author: Author) -> None:
    names = [path_of(it) for it in KEYS]
    ended = layout.Ended.read(layout.left(Commit(cause=Cause.REPLACED, author=author), names[:2]))
    assert [ended.of(it, name) for it, name in zip(KEYS, names, strict=True)] == [
        *[Deleted(it, Cause.REPLACED, author) for it in KEYS[:2]],
        Deleted(KEYS[2], Cause.EXPIRED),
    ]
    former = layout.Ended.read(b"replaced\n" + names[0].encode())
    assert former.of(KEYS[0], names[0]) == Deleted(KEYS[0], Cause.REPLACED)
