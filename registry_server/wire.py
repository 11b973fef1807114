"""CORE. Protobuf's wire format, as much as is needed to join messages from parts that are encoded already.

An encoded message is a sequence of fields, so a message can be put together by joining encoded fields, and a field
that stands twice counts by its last value. That is how an instance is encoded once, when it changes, however many
answers and streams carry it. See https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterable

_VARINT = 0
_FIXED64 = 1
_LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """`value`, which must not be negative, in base 128."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def uint_field(number: int, value: int) -> bytes:
    """An int32, int64, uint64, bool or enum field that is not negative; nothing for 0, which is the default."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def fixed64_field(number: int, value: int) -> bytes:
    """A fixed64 field; nothing for 0, which is the default."""
    return varint(number << 3 | _FIXED64) + value.to_bytes(8, "little") if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A string, bytes or message field, present even when it is empty."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(value)) + value


def string_field(number: int, value: str) -> bytes:
    """A string field; nothing for the empty string, which is the default."""
    return bytes_field(number, value.encode()) if value else b""


def repeated_field(number: int, values: Iterable[bytes]) -> bytes:
    """A repeated message field."""
    return b"".join([bytes_field(number, value) for value in values])
