"""What docs/stores.md shows, as it stands there: a backend, and the contract as tests of it."""

import re
from typing import Any

from tests.support.source import ROOT

PAGE = ROOT / "docs" / "stores.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)

NAMES: dict[str, Any] = {}
for block in BLOCKS:
    exec(compile(block, PAGE.name, "exec"), NAMES)

DictBackend = NAMES["DictBackend"]
Documented = NAMES["TestMine"]
