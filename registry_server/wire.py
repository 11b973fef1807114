"""CORE: Protobuf's wire format, as much as is needed to join messages from parts that are encoded already.

An encoded message is a sequence of fields in any order, so a message with many instances is put together by joining
encoded fields. That is how an instance is encoded once, when it changes, however many answers and streams carry it.
See https://protobuf.dev/programming-guides/encoding/.
"""

from functools import lru_cache

_LENGTH_DELIMITED = 2
# Tags and lengths of messages: the same few are asked for again and again.
_REMEMBERED = 4096


@lru_cache(maxsize=_REMEMBERED)
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


def message_field(number: int, encoded: bytes) -> bytes:
    """A field that holds an encoded message."""
    return b"%b%b%b" % (varint(number << 3 | _LENGTH_DELIMITED), varint(len(encoded)), encoded)
