"""Which instances a lease keeps alive, beside a plain dict of lists."""

from hypothesis import given
from hypothesis import strategies as st

from registry_server.holdings import Holdings
from tests.support.core import key

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove", "drop"]), st.sampled_from("ab"), st.sampled_from("xyz")),
    max_size=40,
)


@given(STEPS)
def test_holdings_are_what_a_plain_dict_holds(steps: list[tuple[str, str, str]]) -> None:
    holdings, plain = Holdings(), dict[str, list[str]]()
    for step, lease, id_ in steps:
        held = plain.setdefault(lease, [])
        if step == "add":
            holdings.add(lease, key(id_))
            held += [] if id_ in held else [id_]
        elif step == "remove":
            holdings.remove(lease, key(id_))
            held[:] = [other for other in held if other != id_]
        else:
            holdings.drop(lease)
            held.clear()
        for name in "ab":
            expected = tuple(key(other) for other in plain.get(name, []))
            assert holdings.of(name) == expected
            assert holdings.count(name) == len(expected)
    assert len(holdings._held) == sum(bool(held) for held in plain.values())
