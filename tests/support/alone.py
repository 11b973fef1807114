"""Whether an installation works with nothing but itself: `python -m tests.support.alone BIN`, its folder of commands.

Nothing of this project is imported, and nothing of it is within reach of what is asked.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

WAIT_S = 60.0
ENV = {"PATH": "/usr/bin:/bin", "REGISTRY_ADMIN": "off"}
PROGRAM = """
import registry_client, registry_server, balancer
from registry_client import Instance
with registry_client.sync.connect("{address}", cache_dir=None) as registry:
    with registry.register(Instance(service="player", host="127.0.0.1", port=8001)):
        print([it.address for it in registry.list("player")])
print(*(it.__file__ for it in (registry_client, registry_server, balancer)))
"""


def alone(commands: Path) -> str:
    """Runs a server, asks it with the command and from Python; gives what Python said. Raises what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [commands / "registry-server", "--listen", "127.0.0.1:0"],
            cwd=folder, env=ENV, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("listening on ").strip()
            assert _said(folder, commands / "registryctl", "--server", address, "ready") == "serving\n"
            said = _said(folder, commands / "python", "-P", "-c", PROGRAM.format(address=address))
            server.terminate()
            assert server.wait(WAIT_S) == 0
        finally:
            server.kill()
            server.communicate()
    return said


def _said(folder: str, *command: str | Path) -> str:
    return subprocess.run(
        command, cwd=folder, env=ENV, stdout=subprocess.PIPE, text=True, timeout=WAIT_S, check=True
    ).stdout


if __name__ == "__main__":
    print(alone(Path(sys.argv[1]).absolute()), end="")
