"""h2spec, a suite of HTTP/2's rules, against the transport that makes HTTP/2 by libnghttp2."""

import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.go_tools import go_tool
from tests.support.transports import FLAGS

AT_LEAST = 145
# What does not pass, by section and name, and why that is well.
_NO_BODY = "what is no gRPC call is answered by headers alone"
_OVER = "libnghttp2 lets pass what comes for a stream that is over: its sender may not know yet"
_NO_PRIORITY = "priorities of this kind are gone since RFC 9113, and not looked at"
NOT_PASSED = {
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): _NO_BODY,
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"): _NO_BODY,
    ("http2/5.1", "closed: Sends a DATA frame after sending RST_STREAM frame"): _OVER,
    ("http2/5.1", "closed: Sends a HEADERS frame after sending RST_STREAM frame"): _OVER,
    ("http2/5.1", "closed: Sends a DATA frame"): _OVER,
    ("http2/5.1", "closed: Sends a HEADERS frame"): _OVER,
    ("http2/5.1.1", "Sends stream identifier that is numerically smaller than previous"): _OVER,
    (
        "http2/5.1.2",
        "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    ): "what is no gRPC call is over at once, so these never add up",
    ("http2/5.3.1", "Sends PRIORITY frame that depend on itself"): _NO_PRIORITY,
    ("http2/6.3", "Sends a PRIORITY frame with 0x0 stream identifier"): _NO_PRIORITY,
    (
        "http2/6.9.1",
        "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream",
    ): "the stream is over by then, so it is the connection that ends",
}


@pytest.mark.timeout(900)  # the first time it is built
def test_all_of_http2_but_what_is_named_here(server_factory: ServerFactory, tmp_path: Path) -> None:
    h2spec, server = go_tool("h2spec"), server_factory(args=FLAGS["http2"]).start()
    command = [str(h2spec), "-h", server.host, "-p", str(server.port), "-P", "/registry.v1.Registry/List", "-o", "1"]
    count, failed = run(command, tmp_path / "all.xml")
    assert count >= AT_LEAST
    unexpected = failed - set(NOT_PASSED)
    if unexpected:  # a request that we refuse may be over before the rule is broken on its stream
        _, again = run([*command, *sorted({section for section, _ in unexpected})], tmp_path / "again.xml")
        assert not unexpected & again
    assert server.is_running
    assert "Traceback" not in server.log_text


def run(command: Sequence[str], report: Path) -> tuple[int, set[tuple[str, str]]]:
    """How many cases there were, and those that did not pass, by section and name."""
    subprocess.run([*command, "-j", str(report)], capture_output=True, timeout=120, check=False)
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    wrong = [case for case in cases if case.find("error") is not None or case.find("failure") is not None]
    return len(cases), {(str(case.get("package")), str(case.get("classname"))) for case in wrong}
