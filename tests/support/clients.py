"""The clients of tests/integration/clients: how each is built by what its language has for it, and how it is run."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.building import Program, run
from tests.support.go_tools import GO_SOURCE, GO_TOOLS
from tests.support.source import ROOT
from tests.support.stubs import CARGO_TARGET, PROTOS, STUBS, blocks, environment

SOURCES = ROOT / "tests" / "integration" / "clients"
_API = PROTOS / "registry" / "v1" / "registry.proto"
_GO_PACKAGE = "grpc-registry.test/client"
_GO_STUBS = f"Mregistry/v1/registry.proto={_GO_PACKAGE}/registry/v1;registryv1"
_COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies"


@dataclass(frozen=True)
class Client:
    """What runs it, given the folder of its program, if it has to be built."""

    program: Program | None
    command: Callable[[Path], list[str]]


def _go(home: Path) -> None:
    source = _copy("go", home)
    plugins = [GO_TOOLS[name].built() for name in ("protoc-gen-go", "protoc-gen-go-grpc")]
    out = [f"--{kind}_{what}" for kind in ("go", "go-grpc") for what in ("out=.", f"opt=module={_GO_PACKAGE}")]
    named = [f"--{kind}_opt={_GO_STUBS}" for kind in ("go", "go-grpc")]
    given = environment(home, *plugins)
    run([home / "protoc", f"-I{PROTOS}", *out, *named, "registry/v1/registry.proto"], source, given)
    run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", home / "client", "."], source, given)


def _java(home: Path) -> None:
    main = home / "src" / "main" / "java" / "Main.java"
    main.parent.mkdir(parents=True)
    shutil.copy(SOURCES / "java" / "Main.java", main)
    (home / "pom.xml").write_text(blocks("Java")["xml"])
    run(["mvn", "-q", "-B", "compile", _COPY_JARS, "-DoutputDirectory=target/lib"], home, environment(home))


def _node(home: Path) -> None:
    run(["npm", "install", "--no-package-lock", "--ignore-scripts"], _copy("node", home))


def _rust(home: Path) -> None:
    source, given = _copy("rust", home), blocks("Rust")
    (source / "Cargo.toml").write_text(given["toml"])
    (source / "build.rs").write_text(given["rs"])
    run(["cargo", "build", "--quiet"], source, environment(home))
    shutil.copy(CARGO_TARGET / "debug" / "game", home / "client")


def _copy(language: str, home: Path) -> Path:
    return Path(shutil.copytree(SOURCES / language, home / "source"))


def _binary(home: Path) -> list[str]:
    return [str(home / "client")]


def _python(name: str) -> Client:
    return Client(None, lambda _: [sys.executable, str(SOURCES / "python" / name)])


CLIENTS = {
    "Go": Client(Program("client-go", "go", GO_SOURCE, (SOURCES / "go", _API), _go), _binary),
    "Java": Client(
        Program("client-java", "mvn", "https://maven.apache.org", (SOURCES / "java", _API, STUBS), _java),
        lambda home: ["java", "-cp", f"{home / 'target' / 'classes'}:{home / 'target' / 'lib'}/*", "Main"],
    ),
    "Node": Client(
        Program("client-node", "npm", "https://nodejs.org", (SOURCES / "node",), _node),
        lambda home: ["node", str(home / "source" / "client.js")],
    ),
    "Rust": Client(
        Program("client-rust", "cargo", "https://rustup.rs", (SOURCES / "rust", _API, STUBS), _rust), _binary
    ),
    "Python, blocking": _python("blocking.py"),
    "Python, asyncio": _python("in_asyncio.py"),
}
