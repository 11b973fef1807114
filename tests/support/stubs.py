"""Stubs in other languages: what docs/stubs.md says of each, and a protoc for it."""

import os
import re
import sys
from pathlib import Path

from tests.support.building import CACHE
from tests.support.source import ROOT

STUBS = ROOT / "docs" / "stubs.md"
PROTOS = ROOT / "protos"
CARGO_TARGET = CACHE / "cargo"
# Takes Maven a third of the processor's time: what runs for seconds is not worth optimising.
SHORT_LIVED_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

_SECTION = re.compile(r"^## (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def languages() -> list[str]:
    """The languages that the page has."""
    return [name for name, _ in _SECTION.findall(STUBS.read_text())]


def blocks(language: str) -> dict[str, str]:
    """What stands there for one of them, by kind: sh, java, xml and the like."""
    return dict(_BLOCK.findall(dict(_SECTION.findall(STUBS.read_text()))[language]))


def environment(tools: Path, *more: Path) -> dict[str, str]:
    """With a `protoc` that is put into `tools`, which comes first in PATH with `more`, and with PROTOS.

    Crates are compiled once for all who use them.
    """
    protoc = tools / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
    protoc.chmod(0o755)
    path = os.pathsep.join([str(tools), *map(str, more), os.environ["PATH"]])
    return {
        "PATH": path,
        "GOBIN": str(tools),
        "PROTOC": str(protoc),
        "PROTOS": str(PROTOS),
        "CARGO_TARGET_DIR": str(CARGO_TARGET),
        "CARGO_PROFILE_DEV_DEBUG": "false",
        "MAVEN_OPTS": f"{os.environ.get('MAVEN_OPTS', '')} {SHORT_LIVED_JAVA}",
    }
