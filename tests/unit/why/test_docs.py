"""docs/why.md says what there is, and nothing else."""

import re

from tests.support.source import ROOT

PAGE = (ROOT / "docs/why.md").read_text()
FIRST, SECOND = PAGE.split("## From where the caller stands")
PROTO = (ROOT / "protos/registry/v1/why.proto").read_text()
SAID = "".join((ROOT / path).read_text() for path in ("balancer/pool/verdicts.py", "registry_client/lack.py"))


def test_all_that_is_looked_at_is_in_the_page_and_in_the_manual() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", FIRST, re.MULTILINE)
    page = {name for row in rows for name in re.findall(r"\w+", row)}
    (listed,) = re.findall(r"  // (`store`[^.]*)\.", PROTO)
    assert page == set(re.findall(r"\w+", listed))
    source = (ROOT / "registry_server/why/reasons.py").read_text()
    assert page == set(re.findall(r"_reason\(\"(\w+)\"", source))


def test_what_a_channel_says_is_said_so() -> None:
    rows = re.findall(r"^\| (`.*?)\|", SECOND, re.MULTILINE)
    phrases = [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]
    assert len(phrases) > 12
    for phrase in phrases:
        for part in re.split(r"…|\d+(?:\.\d+ s)?", phrase):
            assert part.strip(" :") in SAID, phrase
