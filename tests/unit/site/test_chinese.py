"""The Chinese page stands beside the English one: what is to be typed is the same, and where its links lead."""

import re

from tests.support.pages import blocks_of, text_of

ENGLISH, CHINESE = "getting-started.md", "zh/getting-started.md"
BETWEEN = {ENGLISH, CHINESE}


def parts(page: str) -> tuple[list[tuple[str, str]], list[int], set[str]]:
    """Its blocks, the levels of its headings, and the pages that its links lead to."""
    text = text_of(f"docs/{page}")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?:\.\./)*([^)]+)\)", prose)
    shown = [(block.language, block.text) for block in blocks_of(page, text)]
    return shown, [len(level) for level in re.findall(r"^(#+) ", prose, re.MULTILINE)], set(links) - BETWEEN


def test_they_say_the_same() -> None:
    english, chinese = parts(ENGLISH), parts(CHINESE)
    assert english == chinese
    assert len(english[0]) > 5


def test_each_leads_to_the_other() -> None:
    assert f"({CHINESE})" in text_of(f"docs/{ENGLISH}")
    assert f"(../{ENGLISH})" in text_of(f"docs/{CHINESE}")


def test_it_is_chinese() -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", text_of(f"docs/{CHINESE}"), flags=re.DOTALL)
    assert len(re.findall(r"[一-鿿]", prose)) > 500
