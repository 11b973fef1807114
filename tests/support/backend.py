"""The backend that docs/stores.md shows, as it stands there."""

import re
from typing import Any

from tests.support.source import ROOT

PAGE = ROOT / "docs" / "stores.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def documented(block: str) -> dict[str, Any]:
    """The names that a block of the page defines."""
    names: dict[str, Any] = {}
    exec(compile(block, PAGE.name, "exec"), names)
    return names


DictBackend = documented(BLOCKS[0].partition("shared = ")[0])["DictBackend"]
