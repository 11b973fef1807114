"""What pages mention in passing is there: commands and their options, variables, files, and the client's names."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest

import registry_client
from registry_client import RegistryClient
from registry_client.cli import main as registryctl
from registry_server import __main__ as server_command
from registry_server.config.sources import SETTINGS
from tests.support.pages import pages, text_of
from tests.support.source import PACKAGES, ROOT, sources

COMMANDS: dict[str, click.Command] = {"registryctl": registryctl, "registry-server": server_command.main}
FOLDERS = "|".join((*PACKAGES, "tests", "docs", "examples", "deploy", "protos"))
_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_PATH = re.compile(rf"(?<![\w/.])(?:\.\./)?((?:{FOLDERS})/[\w./-]*\w)")


def spans(page: str) -> Iterator[str]:
    """What stands in backticks, outside of blocks."""
    for found in _SPAN.finditer(_BLOCK.sub("", text_of(page))):
        yield " ".join(found[2].split())


def words_of(span: str) -> list[str]:
    try:
        return shlex.split(span)
    except ValueError:  # a part of a line, with one quote
        return span.split()


def unknown(span: str) -> Iterator[str]:
    """What a command line of ours says that there is not."""
    name, *words = words_of(span)
    command, known = COMMANDS[name], options(COMMANDS[name])
    for word, before in zip(words, [name, *words], strict=False):
        if word == "--":
            return
        if word.startswith("--"):
            if word.partition("=")[0] not in known:
                yield f"{span}: {word}"
        elif isinstance(command, click.Group) and not before.startswith("-"):
            if (found := command.commands.get(word)) is not None:
                command, known = found, known | options(found)
            elif word.islower() and word.isalpha():
                yield f"{span}: {word}"
                return


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def every_option(command: click.Command) -> set[str]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return options(command).union(*map(every_option, inner))


@pytest.mark.parametrize("page", pages())
def test_commands(page: str) -> None:
    ours = [span for span in spans(page) if span.split()[0] in COMMANDS and len(span.split()) > 1]
    assert [wrong for span in ours for wrong in unknown(span)] == []


@pytest.mark.parametrize("page", pages())
def test_options(page: str) -> None:
    """What stands alone in backticks is ours: the options of others' programs stand with their names."""
    known = set[str]().union(*map(every_option, COMMANDS.values()))
    alone = [re.split(r"[ =]", span)[0] for span in spans(page) if re.match(r"--[a-z]", span)]
    assert [option for option in alone if option not in known] == []


@pytest.mark.parametrize("page", pages())
def test_variables(page: str) -> None:
    known = {f"REGISTRY_{setting.name.upper()}" for setting in SETTINGS}
    known |= {name for source in sources() for name in re.findall(r"\bREGISTRY_[A-Z_]+\b", source.text)}
    assert set(re.findall(r"\bREGISTRY_[A-Z_]+[A-Z]\b", text_of(page))) - known == set()


@pytest.mark.parametrize("page", pages())
def test_files(page: str) -> None:
    paths = {path.rstrip(".") for path in _PATH.findall(text_of(page))}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", pages())
def test_names_of_the_client(page: str) -> None:
    text = " ".join(spans(page))
    asked = set(re.findall(r"(?<![\w./-])registry\.([a-z_]\w*)(?=[(.]| =)", text)) - {"v1", "proto", "xds", "db"}
    assert [name for name in sorted(asked) if not hasattr(RegistryClient, name)] == []
    of_the_package = set(re.findall(r"(?<![\w./-])registry_client\.([A-Za-z_]\w*)", text))
    assert [name for name in sorted(of_the_package) if not hasattr(registry_client, name)] == []


@pytest.mark.parametrize("page", [page for page in pages() if page.startswith("docs/")])
def test_a_page_that_is_named_is_a_link(page: str) -> None:
    prose = _SPAN.sub("", _BLOCK.sub("", text_of(page)))
    assert re.findall(r"(?<![\w/])(?<!\]\()docs/[a-z-]+\.md", prose) == []


@pytest.mark.parametrize("name", sorted(registryctl.commands))
def test_every_command_is_documented(name: str) -> None:
    assert any(f"registryctl {name}" in text_of(page) for page in pages() if page != "CHANGELOG.md")


def test_every_proto_is_named_where_stubs_are_made() -> None:
    named = set(re.findall(r"\]\(\.\./(protos/registry/v1/\w+\.proto)\)", text_of("docs/stubs.md")))
    assert named == {str(path.relative_to(ROOT)) for path in (ROOT / "protos/registry/v1").glob("*.proto")}


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#]+\.md)", text_of("README.md")))
    assert {page for page in pages() if page != "README.md"} - linked == set()


@pytest.mark.parametrize(
    ("span", "wrong"),
    [
        ("registryctl services --output json", 0),
        ("registryctl servics", 1),
        ("registryctl services --outputt json", 1),
        ("registryctl policy put player -f FILE", 0),
        ("registryctl policy putt player", 1),
        ("registryctl register web 10.0.0.5:8000 -- gunicorn --no-such", 0),
        ("registry-server --store sqlite:PATH", 0),
        ("registry-server --stor sqlite:PATH", 1),
        ("registry-server token new NAME --grant 'read */*'", 0),
    ],
)
def test_what_is_not_there_is_seen(span: str, wrong: int) -> None:
    assert len(list(unknown(span))) == wrong
