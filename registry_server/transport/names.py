"""CORE: how a certificate that was verified calls its holder: DNS names and URIs, as its authority signed them.

They are read from the certificate itself, since libraries hand them on each in its own way: gRPC's core cuts a name
off at a zero byte, so that `game.example` would be whoever is `game.example\\0.evil.example`, and Python gives up
what is no UTF-8.
"""

from collections.abc import Iterator

# Tags of DER: the extensions of a certificate; in the extension of names, those that count.
_EXTENSIONS = 0xA3
_DNS, _URI = 0x82, 0x86
_ALTERNATIVE_NAMES = b"\x55\x1d\x11"  # 2.5.29.17
_LONG = 0x80  # a length that takes bytes of its own
_MAX_LENGTH_BYTES = 4


def names_in(certificate: bytes) -> tuple[str, ...]:
    """Those of a certificate in DER, in its order, that are printable ASCII; none if it is no certificate."""
    try:
        return tuple(map(bytes.decode, filter(_is_plain, _names(certificate))))
    except (ValueError, IndexError):
        return ()


def _names(certificate: bytes) -> Iterator[bytes]:
    ((_, whole),) = _parts(certificate)
    _, signed = next(_parts(whole), (0, b""))
    for _, extensions in (it for it in _parts(signed) if it[0] == _EXTENSIONS):
        ((_, listed),) = _parts(extensions)
        for _, extension in _parts(listed):
            (_, kind), *_, (_, value) = _parts(extension)
            if kind == _ALTERNATIVE_NAMES:
                ((_, names),) = _parts(value)
                # A host has no colon and a URI has one: neither is to be taken for the other.
                yield from (name for tag, name in _parts(names) if tag == (_URI if b":" in name else _DNS))


def _is_plain(name: bytes) -> bool:
    return bool(name) and name.isascii() and name.decode().isprintable()


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
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
