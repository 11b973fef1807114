"""CORE: certificates as they are written (DER): their parts, and when they are good."""

import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_LONG = 0x80  # a length that takes bytes of its own
_MAX_LENGTH_BYTES = 4
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
# Where it stands in what is signed, behind a serial number, an algorithm and a name.
_VALIDITY = 3
_THIS_CENTURY = b"50"  # of years in two digits: those from that on are of the one before
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What stands one behind the other: tags and contents. Raises ValueError or IndexError for what is no DER."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= _LONG:
            size = length - _LONG
            if not 0 < size <= _MAX_LENGTH_BYTES:
                raise ValueError("a length that is none")
            length, at = int.from_bytes(data[at : at + size]), at + size
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield tag, data[at : at + length]
        at += length


def validity(pem: bytes) -> tuple[datetime, datetime] | None:
    """From when until when the first certificate is good; None if that cannot be read."""
    found = _PEM.search(pem)
    try:
        return _validity(binascii.a2b_base64(found[1])) if found else None
    except (ValueError, IndexError):
        return None


def _validity(certificate: bytes) -> tuple[datetime, datetime]:
    ((_, whole),) = parts(certificate)
    _, signed = next(parts(whole), (0, b""))
    listed = [content for tag, content in parts(signed) if tag != _VERSION]
    begins, ends = (_time(tag, text) for tag, text in parts(listed[_VALIDITY]))
    return begins, ends


def _time(tag: int, text: bytes) -> datetime:
    if tag == _UTC_TIME:
        text = (b"20" if text < _THIS_CENTURY else b"19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
