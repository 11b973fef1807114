"""Writes the Python modules of every .proto file below this folder: `python protos/generate.py`.

protoc names modules after the folders below its import root (`registry.v1`), which would claim the top-level name
`registry`; ours live in the package `protos`, so the imports of the generated code are rewritten to say so.
"""

import re
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent
GOOGLE = Path(grpc_tools.__file__).parent / "_proto"


def main() -> int:
    sources = sorted(ROOT.rglob("*.proto"))
    with_services = [path for path in sources if re.search(r"^service ", path.read_text(), re.MULTILINE)]
    failed = _protoc(sources, "python_out", "mypy_out") or _protoc(with_services, "grpc_python_out", "mypy_grpc_out")
    for pattern in ("*_pb2*.py", "*_pb2*.pyi"):
        for path in ROOT.rglob(pattern):
            path.write_text(_below_protos(path.read_text()))
    return failed


def _protoc(sources: list[Path], *kinds: str) -> int:
    outputs = [f"--{kind}={ROOT}" for kind in kinds]
    return int(protoc.main(["protoc", f"-I{ROOT}", f"-I{GOOGLE}", *outputs, *map(str, sources)]))


def _below_protos(text: str) -> str:
    packages = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"))
    text = re.sub(rf"^from ({packages})\.", r"from protos.\1.", text, flags=re.MULTILINE)
    text = re.sub(rf"^import ({packages})\.", r"import protos.\1.", text, flags=re.MULTILINE)
    return re.sub(rf"(?<![\w./\"'])({packages})\.v(\d+)\.(\w+_pb2)", r"protos.\1.v\2.\3", text)


if __name__ == "__main__":
    sys.exit(main())
