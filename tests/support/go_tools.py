"""Programs of other people in Go, each at the version that `go_tools/go.mod` names.

grpc-go's interop client and server are what gRPC's own implementations are tested against each other with.
"""

from pathlib import Path

from tests.support.building import Program, run

GO_SOURCE = "https://go.dev/dl"
_MODULE = Path(__file__).parent / "go_tools"


def _program(name: str, package: str) -> Program:
    def make(home: Path) -> None:
        run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", home / name, package], _MODULE)

    return Program(name, "go", GO_SOURCE, (_MODULE,), make)


GO_TOOLS = {
    name: _program(name, package)
    for name, package in {
        "interop-client": "google.golang.org/grpc/interop/client",
        "interop-server": "google.golang.org/grpc/interop/server",
        "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go",
        "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
        "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl",
        "ghz": "github.com/bojand/ghz/cmd/ghz",
        "h2spec": "github.com/summerwind/h2spec/cmd/h2spec",
    }.items()
}


def go_tool(name: str) -> Path:
    """Where that program is; the first who asks builds it. Skips the test when that cannot be done."""
    return GO_TOOLS[name].needed() / name
