"""docs/stubs.md, carried out as it stands against a real server: with the tools of the language where they are."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.stubs import blocks, environment, languages

# By language: the tool it needs, the files its blocks are, and what its program says.
LANGUAGES = {
    "Go": ("go", {"go": "main.go"}, "RENEWED\nfrom-go 10.0.0.5:8001\n"),
    "Node": ("npm", {"js": "client.js"}, "RENEWED\nfrom-node 10.0.0.5:8002\n"),
    "Java": ("mvn", {"java": "src/main/java/Main.java", "xml": "pom.xml"}, "from-java 10.0.0.5:8003\n"),
    "Rust": (
        "cargo",
        {"toml": "Cargo.toml", "rs": "build.rs", "rust": "src/main.rs"},
        "RENEWED\nfrom-rust 10.0.0.5:8004\n",
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_commands_of_the_docs_make_stubs_that_work(
    language: str, server_factory: ServerFactory, tmp_path: Path
) -> None:
    tool, files, says = LANGUAGES[language]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not here")
    given = blocks(language)
    for kind, name in files.items():
        path = tmp_path / "game" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(given[kind])
    tools = tmp_path / "bin"
    tools.mkdir()
    commands = given["sh"].replace("127.0.0.1:7400", server_factory().start().address)
    done = subprocess.run(
        ["sh", "-ec", commands],
        cwd=tmp_path / "game",
        env={**os.environ, **environment(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_every_language_of_the_docs_is_tried() -> None:
    assert languages() == list(LANGUAGES)
