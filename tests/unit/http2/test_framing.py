"""gRPC's framing: whatever pieces it comes in, and whatever is wrong with it."""

import contextlib
import gzip
import zlib
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.transport.http2 import framing
from registry_server.transport.http2.framing import (
    DEFLATE,
    GZIP,
    IDENTITY,
    Malformed,
    Messages,
    NotGrpc,
    TooLarge,
    framed,
    whole,
)

LIMIT = 4096
CALL = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/registry.v1.Registry/Get"),
    (b":authority", b"test"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
messages_ = st.lists(st.binary(max_size=200) | st.binary(min_size=1000, max_size=LIMIT), max_size=5)
encodings = st.sampled_from(framing.ENCODINGS)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def read_head(headers: Sequence[framing.Header], max_bytes: int = 300) -> framing.Head:
    return framing.read_head(headers, max_bytes)


def taken(reader: Messages, *pieces: bytes) -> list[bytes]:
    """All that is whole after these pieces."""
    messages = []
    for piece in pieces:
        reader.feed(piece)
        while reader.is_ready:
            messages.append(reader.take())
    return messages


def call(**changed: bytes) -> list[framing.Header]:
    names = {name.replace("_", "-").encode(): value for name, value in changed.items()}
    return [(name, value) for name, value in CALL if name not in names] + list(names.items())


# ---- messages


@given(messages_, encodings, st.lists(st.integers(min_value=0), max_size=10))
def test_messages_come_out_as_they_went_in_whatever_the_pieces(
    sent: list[bytes], encoding: bytes, cuts: list[int]
) -> None:
    reader = Messages(LIMIT, encoding)
    wire = b"".join(framed(message, encoding) for message in sent)
    assert taken(reader, *in_pieces(wire, cuts)) == sent
    assert len(reader) == 0


@given(st.binary(max_size=40) | messages_.map(lambda sent: b"".join(framed(it) for it in sent)))
def test_what_is_one_whole_message_is_what_a_reader_finds(data: bytes) -> None:
    reader = Messages(LIMIT)
    found = whole(data, LIMIT)
    if found is not None:
        assert taken(reader, data) == [found]
        assert len(reader) == 0
    else:
        with contextlib.suppress(framing.FramingError):
            assert len(taken(reader, data)) != 1 or len(reader) > 0


@given(st.binary(min_size=1, max_size=100), st.integers(min_value=1))
def test_what_is_not_whole_is_held(message: bytes, cut: int) -> None:
    wire = framed(message)
    part = wire[: cut % len(wire)]
    reader = Messages(LIMIT)
    assert taken(reader, part) == []
    assert len(reader) == len(part)
    assert taken(reader, wire[len(part) :]) == [message]


def test_the_message_before_one_that_is_too_large_is_given() -> None:
    reader = Messages(LIMIT)
    reader.feed(framed(b"first") + b"\0" + (LIMIT + 1).to_bytes(4))
    assert reader.take() == b"first"
    assert reader.is_ready
    with pytest.raises(TooLarge, match="4097 bytes"):
        reader.take()


@given(st.binary(max_size=300), encodings)
def test_any_bytes_at_all_are_messages_or_an_error_of_framing(data: bytes, encoding: bytes) -> None:
    with contextlib.suppress(framing.FramingError):
        taken(Messages(LIMIT, encoding), data)


def test_a_message_that_is_too_large_is_refused_by_its_prefix_alone() -> None:
    assert not taken(Messages(LIMIT), b"\0" + LIMIT.to_bytes(4))
    with pytest.raises(TooLarge, match="4097 bytes"):
        taken(Messages(LIMIT), b"\0" + (LIMIT + 1).to_bytes(4))


@pytest.mark.parametrize("encoding", [GZIP, DEFLATE])
def test_no_more_is_unpacked_than_is_allowed(encoding: bytes) -> None:
    assert framing.unpack(encoding, framing.pack(encoding, b"x" * LIMIT), LIMIT) == b"x" * LIMIT
    with pytest.raises(TooLarge, match="unpacks"):
        framing.unpack(encoding, framing.pack(encoding, b"x" * (LIMIT + 1)), LIMIT)


def test_what_others_packed_is_unpacked() -> None:
    assert framing.unpack(GZIP, gzip.compress(b"text"), LIMIT) == b"text"
    assert framing.unpack(DEFLATE, zlib.compress(b"text"), LIMIT) == b"text"
    assert gzip.decompress(framing.pack(GZIP, b"text")) == b"text"
    assert zlib.decompress(framing.pack(DEFLATE, b"text")) == b"text"


GZIPPED = gzip.compress(b"text")


@pytest.mark.parametrize(
    "packed", [b"", b"no gzip", GZIPPED[:-1], GZIPPED + b"x"], ids=["nothing", "no gzip", "too short", "too long"]
)
def test_what_is_not_packed_as_it_says_is_malformed(packed: bytes) -> None:
    with pytest.raises(Malformed, match="cannot be unpacked"):
        framing.unpack(GZIP, packed, LIMIT)


def test_a_packed_message_needs_an_encoding() -> None:
    with pytest.raises(Malformed, match="no grpc-encoding"):
        taken(Messages(LIMIT, IDENTITY), b"\1\0\0\0\1x")
    with pytest.raises(Malformed, match="flag 2"):
        taken(Messages(LIMIT, GZIP), b"\2\0\0\0\1x")


def test_small_messages_are_not_packed() -> None:
    small, large = b"x" * (framing.PACKED_FROM_BYTES - 1), b"x" * framing.PACKED_FROM_BYTES
    assert framed(small, GZIP) == framed(small)
    assert len(framed(large, GZIP)) < len(large)


# ---- heads


def test_the_head_of_a_call() -> None:
    assert read_head(CALL) == framing.Head(b"/registry.v1.Registry/Get")
    assert read_head(call(grpc_timeout=b"1500m")).timeout_s == 1.5
    for kind in (b"application/grpc+proto", b"application/grpc;charset=utf-8"):
        assert read_head(call(content_type=kind)).path == b"/registry.v1.Registry/Get"


def test_headers_without_end_are_refused() -> None:
    with pytest.raises(TooLarge, match="headers"):
        read_head(call(name=b"x" * 300))
    with pytest.raises(TooLarge, match="headers"):
        read_head([*CALL, *[(b"name", b"x" * 30)] * 10])


def test_who_shows_two_different_things_shows_nothing_that_is_anybodys() -> None:
    one, other = (b"authorization", b"Bearer one"), (b"authorization", b"Bearer other")
    assert read_head([*CALL, one, one]).authorization == b"Bearer one"
    for both in ([one, other], [other, one], [(b"authorization", b""), one]):
        assert read_head([*CALL, *both]).authorization == b""


@pytest.mark.parametrize("kind", [b"", b"text/html", b"application/grpc-web", b"application/grpcx"])
def test_other_content_types_are_not_grpc(kind: bytes) -> None:
    with pytest.raises(NotGrpc) as refused:
        read_head(call(content_type=kind))
    assert refused.value.http_status == 415


def test_other_methods_are_not_grpc() -> None:
    with pytest.raises(NotGrpc) as refused:
        read_head([(b":method", b"GET"), *CALL[1:]])
    assert refused.value.http_status == 405


def test_answers_are_packed_as_the_request_is_if_its_caller_takes_that() -> None:
    for accepted, expected in ((b"identity, gzip", GZIP), (b"deflate", IDENTITY)):
        head = read_head(call(grpc_encoding=b"gzip", grpc_accept_encoding=accepted))
        assert (head.encoding, head.answers_in) == (GZIP, expected)
    assert read_head(call(grpc_accept_encoding=b"gzip")).answers_in == IDENTITY
    with pytest.raises(framing.Unsupported, match="br"):
        read_head(call(grpc_encoding=b"br"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1S", 1), (b"0n", 0), (b"99999999H", 99999999 * 3600), (b"2M", 120), (b"5u", 5e-6), (b"7n", 7e-9)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert framing.timeout_in_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1x", b"1S ", b"\xd9\xa1S"])
def test_timeouts_that_are_none(value: bytes) -> None:
    with pytest.raises(Malformed, match="grpc-timeout"):
        framing.timeout_in_s(value)


# ---- statuses


@given(st.text())
def test_text_survives_a_header(text: str) -> None:
    value = framing.escaped(text)
    assert value == value.strip()
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert unquote_to_bytes(value) == text.encode(errors="replace")


def test_text_is_escaped_as_grpc_has_it() -> None:
    assert framing.escaped("50 % of \u00fc\n") == b"50 %25 of %C3%BC%0A"


def test_trailers() -> None:
    assert framing.trailers(5, "no", b"\1") == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"no"),
        (b"grpc-status-details-bin", b"AQ"),
    ]


def test_an_answer_of_headers_alone() -> None:
    headers = dict(framing.ended_at_once(12, "no such method", http_status=415))
    assert headers[b":status"] == b"415"
    assert headers[b"content-type"] == b"application/grpc"
    assert headers[b"grpc-status"] == b"12"
