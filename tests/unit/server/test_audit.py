"""The audit log: what a line says, which methods are told of, and the file with all that can happen to one."""

import asyncio
import contextlib
import fcntl
import json
import os
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message

from registry_api.registry.v1 import policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.audit import lines
from registry_server.audit.log import MOST, AuditLog
from registry_server.audit.wrapper import WRITES, Audit, audited, is_write
from registry_server.config import Config, ConfigError
from registry_server.errors import NotFound, PermissionDenied
from registry_server.rpc import needs
from registry_server.rpc.table import Caller, Service, Table, Unary
from registry_server.server import _audit_log
from registry_server.transport.status import CODES
from tests.support.core import drive
from tests.support.waiting import eventually

NOON = 1_800_000_000.0
ALICE = Caller("ipv4:192.0.2.1:1", identity="alice")


# ---- what a line says


class Lines:
    """In memory."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert line.isascii()
        self.found.append(json.loads(line))


def into(book: Lines) -> Audit:
    return Audit(book, lambda: NOON, lambda error: CODES[type(error)].name)


def told(answer: Message | Exception, request: Message, method: str = "Register") -> dict[str, Any]:
    """The line about one call."""

    async def call(request: Message, caller: Caller) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return answer.SerializeToString()

    book, name = Lines(), _service_of(request)
    table = audited(
        Table(Service(name, {method: Unary(type(request), call, needs.REGISTER)})),
        into(book),
    )
    audited_method = table.methods[f"/{name}/{method}"]
    assert isinstance(audited_method, Unary)
    if isinstance(answer, Exception):
        with pytest.raises(type(answer)):
            drive(audited_method.call(request, ALICE))
    else:
        assert drive(audited_method.call(request, ALICE)) == answer.SerializeToString()
    (line,) = book.found
    assert line.pop("time") == "2027-01-15T08:00:00.000Z"
    assert line.pop("what") == f"{name}/{method}"
    assert (line.pop("who"), line.pop("from")) == ("alice", "ipv4:192.0.2.1:1")
    return line


def _service_of(request: Message) -> str:
    for service in ("registry.v1.Registry", "registry.v1.Checks", "registry.v1.Policies"):
        methods = Default().FindServiceByName(service).methods
        if any(it.input_type is request.DESCRIPTOR for it in methods):
            return service
    raise AssertionError(request.DESCRIPTOR.full_name)


HEADER = pb.ResponseHeader(epoch="e", revision=7)
A = pb.Instance(namespace="default", service="player", id="a", host="10.0.0.5", port=8001, generation=9)
LEASE = "0123456789abcdef0123456789abcdef.SECRETSECRETSECRETSECRETSECRETSE"


def test_a_registration() -> None:
    request = pb.RegisterRequest(instance=pb.Instance(service="player", host="10.0.0.5", port=8001), lease_id=LEASE)
    done = {"key": "default/player/a", "address": "10.0.0.5:8001", "generation": 9, "revision": 7, "outcome": "OK"}
    assert told(pb.RegisterResponse(header=HEADER, instance=A, lease_id=LEASE), request) == done
    denied = told(PermissionDenied("alice", "register", "default/player"), request)
    assert denied == {
        "key": "default/player/",
        "address": "10.0.0.5:8001",
        "generation": 0,
        "revision": 0,
        "outcome": "PERMISSION_DENIED",
        "reason": "alice has not the right `register` on default/player",
    }


def test_leaving_by_key_and_by_lease() -> None:
    drain = {"seconds": 2}
    by_key = pb.DeregisterRequest(key=pb.InstanceKey(service="player", id="a"), drain=drain)
    answer = pb.DeregisterResponse(header=HEADER, removed=3)
    common = {"drain_s": 2.0, "removed": 3, "revision": 7, "outcome": "OK"}
    assert told(answer, by_key, "Deregister") == {"key": "default/player/a"} | common
    by_lease = pb.DeregisterRequest(lease_id=LEASE, drain=drain)
    assert told(answer, by_lease, "Deregister") == {"lease": "0123456789abcdef…"} | common
    refused = told(NotFound.lease(LEASE), by_lease, "Deregister")
    assert refused["outcome"] == "NOT_FOUND"
    assert "SECRET" not in json.dumps(refused)


def test_an_update_names_the_fields_and_not_what_is_in_them() -> None:
    request = pb.UpdateRequest(instance=A, update_mask={"paths": ["weight", "metadata"]})
    request.instance.metadata["password"] = "SECRET"
    line = told(pb.UpdateResponse(header=HEADER, instance=A), request, "Update")
    assert line == {"key": "default/player/a", "fields": "weight,metadata", "revision": 7, "outcome": "OK"}


@pytest.mark.parametrize(
    ("request_", "method", "key"),
    [
        (pb.ChecksPutRequest(rule=pb.CheckRule(scope=pb.CheckScope(all_namespaces=True))), "Put", "*/*"),
        (pb.ChecksDeleteRequest(scope=pb.CheckScope(service="player")), "Delete", "default/player"),
        (policies_pb2.PoliciesPutRequest(policy=policies_pb2.Policy(service="player")), "Put", "default/player"),
        (policies_pb2.PoliciesDeleteRequest(namespace="prod", service="player"), "Delete", "prod/player"),
    ],
)
def test_what_is_set_beside_instances(request_: Message, method: str, key: str) -> None:
    assert told(NotFound("it", "x"), request_, method)["key"] == key


def test_what_nobody_expected_and_whoever_did_not_wait() -> None:
    assert told(ValueError("a secret of the inside"), pb.RegisterRequest())["outcome"] == "INTERNAL"
    book = Lines()

    async def never(request: Message, caller: Caller) -> bytes:
        raise asyncio.CancelledError

    table = Table(Service("registry.v1.Registry", {"Register": Unary(pb.RegisterRequest, never, needs.REGISTER)}))
    method = audited(table, into(book)).methods["/registry.v1.Registry/Register"]
    assert isinstance(method, Unary)
    with pytest.raises(asyncio.CancelledError):
        drive(method.call(pb.RegisterRequest(), ALICE))
    assert book.found[0]["outcome"] == "CANCELLED"


def test_what_is_asked_for_in_vain_is_of_no_size_and_breaks_no_line() -> None:
    evil = 'x\n{"who": "root"}\u202e\x00' * 10_000
    line = told(NotFound("instance", evil), pb.RegisterRequest(instance=pb.Instance(service=evil, host=evil)))
    assert len(json.dumps(line)) < 10_000


def test_reads_are_none_of_it() -> None:
    for name in WRITES:
        assert not is_write(name, Unary(pb.GetRequest, lambda request, caller: None, needs.GET))  # type: ignore[arg-type,return-value]


# ---- the file


def line_of(number: int) -> bytes:
    return lines.line(NOON, {"number": number})


def numbers(path: Path) -> list[int]:
    """The lines that are there, each whole; what was lost is minus its number."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [it["number"] if "number" in it else -it["lost"] for it in found]


@contextmanager
def log_at(path: Path | str) -> Iterator[AuditLog]:
    with closing(AuditLog(str(path))) as log:
        yield log


def test_all_that_was_taken_is_there_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(line_of(0))
    with log_at(path) as log:
        for number in range(1, 2_000):
            log.write(line_of(number))
    assert numbers(path) == list(range(2_000))
    assert (log.written, log.lost) == (1_999, 0)
    with log_at(tmp_path / "new") as log:
        log.write(line_of(1))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["moved", "deleted", "cut off"])
def test_a_file_that_is_rotated_goes_on_under_its_name(tmp_path: Path, how: str) -> None:
    path, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    with log_at(path) as log:
        log.write(line_of(1))
        eventually(lambda: log.written == 1, what="the first line")
        if how == "moved":
            path.rename(moved)
        elif how == "deleted":
            path.unlink()
        else:
            os.truncate(path, 0)
        log.write(line_of(2))
    assert numbers(path) == [2]
    assert not moved.exists() or numbers(moved) == [1]


def test_where_it_cannot_be_opened_anew_it_goes_on_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder := tmp_path / "folder").mkdir()
    with log_at(folder / "audit.log") as log:
        log._may_say_at = 0.0
        folder.rename(tmp_path / "elsewhere")
        log.write(line_of(1))
    assert numbers(tmp_path / "elsewhere" / "audit.log") == [1]
    assert "cannot be opened anew" in caplog.text


@pytest.mark.parametrize("instead", ["a directory", "a pipe without a reader"])
def test_what_was_deleted_and_cannot_be_opened_anew_is_lost_and_counted(
    instead: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines in a file without a name are no more than those that a full disk takes; the next file tells of them."""
    path = tmp_path / "audit.log"
    with log_at(path) as log:
        log.write(line_of(1))
        eventually(lambda: log.written == 1, what="the first line")
        path.unlink()
        path.mkdir() if instead == "a directory" else os.mkfifo(path)
        for number in (2, 3):
            log.write(line_of(number))
            eventually(lambda at=number - 1: log.lost == at, what="it is lost")  # type: ignore[misc]
        path.rmdir() if instead == "a directory" else path.unlink()
        log.write(line_of(4))
    told, last = path.read_text().splitlines()
    assert json.loads(told)["lost"] == 2
    assert last.encode() + b"\n" == line_of(4)
    assert (log.written, log.lost) == (2, 2)
    assert "it was deleted, and cannot be opened anew" in caplog.text


def test_a_full_disk_costs_lines_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with log_at("/dev/full") as log:
        for number in range(100):
            log.write(line_of(number))
            eventually(lambda at=number + 1: log.lost == at, what="it is lost")  # type: ignore[misc]
    assert (log.written, log.lost) == (0, 100)
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting_and_tells_later_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    long = lines.line(NOON, {"number": 1, "more": "x" * 1_000})
    taken, received = 2 * MOST, b""
    with log_at(path) as log:
        for _ in range(taken):
            log.write(long)  # 20 MB
        eventually(lambda: log.lost > 0, what="some are lost")

        def told_of_loss() -> bool:
            nonlocal received, taken
            log.write(line_of(2))
            taken += 1
            with open(reader, "rb", closefd=False) as pipe:
                received += pipe.read() or b""
            return b'"lost"' in received

        eventually(told_of_loss, timeout_s=30, what="the file says so")
    os.close(reader)
    whole = [line for line in received.split(b"\n")[:-1] if line.startswith(b'{"time"') and line.endswith(b"}")]
    assert all(json.loads(line) for line in whole)
    assert log.written + log.lost == taken


def test_a_pipe_among_very_many_files(tmp_path: Path) -> None:
    """One that is opened anew beside thousands of connections has a number that `select` does not take."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, 2_000), most))
    try:
        with log_at(path) as log:
            low, log._file = log._file, fcntl.fcntl(log._file, fcntl.F_DUPFD, 1_500)
            os.close(low)
            for _ in range(200):
                log.write(lines.line(NOON, {"more": "x" * 1_000}))  # more than a pipe takes
            eventually(lambda: log.lost > 0, what="it waited for the reader, in vain")
            assert log._thread.is_alive()
            seen = bytearray()

            def goes_on() -> bool:
                log.write(line_of(7))  # again and again, since what waits before it may fill the pipe once more
                with contextlib.suppress(BlockingIOError):
                    seen.extend(os.read(reader, 1 << 20))
                return b'"number": 7' in seen

            eventually(goes_on)
    finally:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


def test_a_mistake_costs_the_lines_at_hand_and_not_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with log_at(tmp_path / "audit.log") as log:
        right = log._open_if_moved

        def wrong() -> bool:
            raise RuntimeError("nobody thought of this")

        log._open_if_moved, log._may_say_at = wrong, 0.0  # type: ignore[method-assign]
        log.write(line_of(1))
        eventually(lambda: log.lost == 1, what="it is lost")
        log._open_if_moved = right  # type: ignore[method-assign]
        log.write(line_of(2))
    assert numbers(tmp_path / "audit.log") == [-1, 2]
    assert "nobody thought of this" in caplog.text


def test_a_name_with_a_zero_byte_is_a_mistake_of_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"audit_log: cannot be written: .*embedded null"):
        _audit_log(Config(audit_log="a\0b"))


@pytest.mark.parametrize("path", ["/", "/nowhere/at/all"])
def test_what_cannot_be_opened_is_said_at_the_start(path: str) -> None:
    with pytest.raises(OSError, match=r"Is a directory|No such file"):
        AuditLog(path)
