"""CORE: what gRPC adds to HTTP/2: messages with a prefix, headers, time-outs, compression, statuses.

See https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and compression.md beside it.
"""

import re
import zlib
from base64 import b64encode
from collections.abc import Sequence
from typing import NamedTuple

Header = tuple[bytes, bytes]

PREFIX_BYTES = 5

IDENTITY, DEFLATE, GZIP = b"identity", b"deflate", b"gzip"
# How zlib is told to pack and to unpack each of these.
_WINDOW_BITS = {DEFLATE: zlib.MAX_WBITS, GZIP: zlib.MAX_WBITS | 16}
ENCODINGS = (IDENTITY, *_WINDOW_BITS)
# Smaller messages are not worth the work.
PACKED_FROM_BYTES = 1024
# Enough for text; more costs more time than it saves bytes.
_LEVEL = 3

_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
# application/grpc, with the name of a format behind it or not; grpc-web is something else.
_CONTENT_TYPE = re.compile(rb"application/grpc(?:$|[+;])")
# Also a space at an end, which HTTP/2 does not allow there.
_UNSAFE = re.compile(rb"[^ -$&-~]|\A | \Z")

_HEAD: tuple[Header, ...] = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b",".join(ENCODINGS)),
)
# The head of an answer, by how its messages may be packed.
HEADS: dict[bytes, tuple[Header, ...]] = {
    IDENTITY: _HEAD,
    **{encoding: (*_HEAD, (b"grpc-encoding", encoding)) for encoding in _WINDOW_BITS},
}


class FramingError(ValueError):
    """A peer does not speak gRPC as it should. The text says how."""


class Malformed(FramingError):
    """What came is not gRPC's framing."""


class Unsupported(FramingError):
    """It is a part of gRPC that is not offered here."""


class TooLarge(FramingError):
    """A message, or a head, is larger than is allowed by the limit of that name."""

    def __init__(self, limit: str, text: str) -> None:
        super().__init__(text)
        self.limit = limit


class NotGrpc(FramingError):
    """The request is one of plain HTTP, which has statuses of its own."""

    def __init__(self, http_status: int, text: str) -> None:
        super().__init__(text)
        self.http_status = http_status


class Head(NamedTuple):
    """What the headers of a call say. `encoding` is how its messages may be packed, and is used for the answers too if
    the caller takes them; `timeout_s` is None where nothing limits the call; `authorization` is what the caller
    shows, `traced` the headers `traceparent` and `tracestate` of a caller whose calls are traced."""

    path: bytes
    timeout_s: float | None = None
    encoding: bytes = IDENTITY
    answers_in: bytes = IDENTITY
    authorization: bytes | None = None
    traced: tuple[bytes, bytes] | None = None


def read_head(headers: Sequence[Header], max_bytes: int) -> Head:
    """What the headers of a request say; their values may have so many bytes. Raises FramingError."""
    fields = dict(headers)
    is_plain = len(fields) == len(headers)  # as nearly always: none is there twice
    if sum(map(len, fields.values() if is_plain else (value for _, value in headers))) > max_bytes:
        raise TooLarge("max_header_bytes", f"the headers are more than the {max_bytes} bytes that are allowed")
    if fields.get(b":method") != b"POST":
        raise NotGrpc(405, "gRPC calls are POST requests")
    if not _CONTENT_TYPE.match(fields.get(b"content-type", b"")):
        raise NotGrpc(415, "the content-type of gRPC calls is application/grpc")
    timeout = fields.get(b"grpc-timeout")
    timeout_s = None if timeout is None else timeout_in_s(timeout)
    path, authorization = fields.get(b":path", b""), fields.get(b"authorization")
    if not is_plain and len({value for name, value in headers if name == b"authorization"}) > 1:
        authorization = b""  # nobody's: who looked at one of them on the way here may have taken another for it
    parent = fields.get(b"traceparent")
    traced = None if parent is None else (parent, fields.get(b"tracestate", b""))
    encoding = fields.get(b"grpc-encoding", IDENTITY)
    if encoding == IDENTITY:
        return Head(path, timeout_s, authorization=authorization, traced=traced)
    if encoding not in ENCODINGS:
        raise Unsupported(f"grpc-encoding {encoding[:32]!r} is not known here")
    accepted = [it.strip() for it in fields.get(b"grpc-accept-encoding", b"").split(b",")]
    return Head(path, timeout_s, encoding, encoding if encoding in accepted else IDENTITY, authorization, traced)


def timeout_in_s(value: bytes) -> float:
    """A grpc-timeout in seconds. Raises Malformed."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise Malformed(f"grpc-timeout {value[:32]!r} is none")
    return int(match[1]) * _UNIT_S[match[2]]


# ---- messages


def framed(message: bytes, encoding: bytes = IDENTITY) -> bytes:
    """A message as it is written to a stream, packed if that is worth it."""
    if encoding in _WINDOW_BITS and len(message) >= PACKED_FROM_BYTES:
        packed = pack(encoding, message)
        if len(packed) < len(message):
            return b"\1%b%b" % (len(packed).to_bytes(4), packed)
    return b"\0%b%b" % (len(message).to_bytes(4), message)


def framed_chunks(chunks: Sequence[bytes], encoding: bytes = IDENTITY) -> Sequence[bytes]:
    """A message of several chunks as it is written, in chunks again: all but the first stay as they are."""
    if len(chunks) == 1 or encoding in _WINDOW_BITS:
        return (framed(chunks[0] if len(chunks) == 1 else b"".join(chunks), encoding),)
    return (b"\0%b%b" % (sum(map(len, chunks)).to_bytes(4), chunks[0]), *chunks[1:])


def whole(data: bytes, max_bytes: int) -> bytes | None:
    """The message of which the data are the whole, if it is one that is not packed, and no larger than is allowed."""
    size = len(data) - PREFIX_BYTES
    if 0 <= size <= max_bytes and data[0] == 0 and int.from_bytes(data[1:PREFIX_BYTES]) == size:
        return data[PREFIX_BYTES:]
    return None


class Messages:
    """Takes the bytes of one stream as they come, and gives the messages in them, one when it is asked for.

    `max_bytes` is what a message may have, both as it comes and unpacked.
    """

    __slots__ = ("_data", "_encoding", "_needed", "max_bytes")

    def __init__(self, max_bytes: int, encoding: bytes = IDENTITY) -> None:
        self.max_bytes = max_bytes
        self._encoding = encoding
        self._data: bytes | bytearray = b""
        self._needed = PREFIX_BYTES  # for the first message to be whole, or to be refused

    def __len__(self) -> int:
        """How many bytes are here and not taken."""
        return len(self._data)

    @property
    def is_ready(self) -> bool:
        """Whether a message is whole, or known to be too large."""
        return len(self._data) >= self._needed

    def feed(self, data: bytes) -> None:
        """Take in what came."""
        if self._data:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += data
        else:
            self._data = data  # nearly always one message, whole
        self._look()

    def take(self) -> bytes:
        """The first message, when there is one. Raises FramingError; the stream cannot be read on then."""
        data, end = self._data, self._needed
        length = int.from_bytes(data[1:PREFIX_BYTES])
        if length > self.max_bytes:
            text = f"a message of {length} bytes is more than the {self.max_bytes} that are allowed"
            raise TooLarge("max_message_bytes", text)
        flag, message = data[0], bytes(data[PREFIX_BYTES:end])
        if len(data) == end:
            self._data = b""
        else:
            self._data = rest = bytearray(data) if isinstance(data, bytes) else data
            del rest[:end]
        self._look()
        return message if flag == 0 else self._unpacked(flag, message)

    def _look(self) -> None:
        length = int.from_bytes(self._data[1:PREFIX_BYTES]) if len(self._data) >= PREFIX_BYTES else 0
        self._needed = PREFIX_BYTES + (length if length <= self.max_bytes else 0)

    def _unpacked(self, flag: int, message: bytes) -> bytes:
        if flag != 1:
            raise Malformed(f"a message has the flag {flag}")
        if self._encoding not in _WINDOW_BITS:
            raise Malformed("a message is packed, and no grpc-encoding says how")
        return unpack(self._encoding, message, self.max_bytes)


def pack(encoding: bytes, message: bytes) -> bytes:
    """The message packed by deflate or gzip."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return packer.compress(message) + packer.flush()


def unpack(encoding: bytes, packed: bytes, max_bytes: int) -> bytes:
    """What was packed by deflate or gzip; no more is unpacked than is allowed. Raises Malformed, TooLarge."""
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        message = unpacker.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise Malformed(f"a message cannot be unpacked: {error}") from None
    if len(message) > max_bytes:
        raise TooLarge("max_message_bytes", f"a message unpacks to more than the {max_bytes} bytes that are allowed")
    if not unpacker.eof or unpacker.unused_data:
        raise Malformed("a message cannot be unpacked: it is not whole, or has more behind it")
    return message


# ---- how a call ends

OK: tuple[Header, ...] = ((b"grpc-status", b"0"),)


def trailers(code: int, message: str, details: bytes = b"") -> Sequence[Header]:
    """What ends a stream: a status, with google.rpc's details of it if there are any."""
    fields = [(b"grpc-status", b"%d" % code), (b"grpc-message", escaped(message))]
    if details:
        fields.append((b"grpc-status-details-bin", b64encode(details).rstrip(b"=")))
    return fields


def ended_at_once(code: int, message: str, details: bytes = b"", http_status: int = 200) -> Sequence[Header]:
    """The only headers of an answer that has no message."""
    fields = (*HEADS[IDENTITY][1:], *trailers(code, message, details))
    return ((b":status", b"%d" % http_status), *fields)


def escaped(text: str) -> bytes:
    """Text as it may stand in a header: ASCII, the rest as %XX of its UTF-8."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode(errors="replace"))
