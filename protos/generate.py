"""Writes the Python modules of every .proto file below this folder: `make protos`.

protoc names modules after the folders below its import root (`registry.v1`), which would claim the top-level name
`registry`, and most gRPC projects have a package `protos` of their own. So what is generated is the package
`registry_api`, and the imports of the generated code are rewritten to say so.

Run it with the oldest generator that all supported versions of protobuf and grpcio take (protos/requirements.txt): code
of a generator is good for that version of the libraries and every later one, and for none before.
"""

import re
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent
OUT = ROOT / "registry_api"
EXAMPLES = ROOT.parent / "examples" / "game"
GOOGLE = Path(grpc_tools.__file__).parent / "_proto"


def main() -> int:
    sources = sorted(ROOT.rglob("*.proto"))
    with_services = [path for path in sources if re.search(r"^service ", path.read_text(), re.MULTILINE)]
    game = [EXAMPLES / "game.proto"]
    failed = (
        _protoc(ROOT, OUT, sources, "python_out", "mypy_out")
        or _protoc(ROOT, OUT, with_services, "grpc_python_out", "mypy_grpc_out")
        or _protoc(ROOT.parent, ROOT.parent, game, "python_out", "mypy_out", "grpc_python_out", "mypy_grpc_out")
    )
    for pattern in ("*_pb2*.py", "*_pb2*.pyi"):
        for path in OUT.rglob(pattern):
            path.write_text(_below_registry_api(path.read_text()))
    return failed


def _protoc(root: Path, out: Path, sources: list[Path], *kinds: str) -> int:
    outputs = [f"--{kind}={out}" for kind in kinds]
    return int(protoc.main(["protoc", f"-I{root}", f"-I{GOOGLE}", *outputs, *map(str, sources)]))


def _below_registry_api(text: str) -> str:
    text = re.sub(r"^(from|import) registry\.", r"\1 registry_api.registry.", text, flags=re.MULTILINE)
    return re.sub(r"(?<![\w./\"'])registry\.((?:\w+\.)+\w+_pb2)", r"registry_api.registry.\1", text)


if __name__ == "__main__":
    sys.exit(main())
