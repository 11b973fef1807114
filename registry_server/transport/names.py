"""CORE: how a certificate that was verified calls its holder: DNS names and URIs, as its authority signed them.

They are read from the certificate itself, since libraries hand them on each in its own way: gRPC's core cuts a name
off at a zero byte, so that `game.example` would be whoever is `game.example\\0.evil.example`, and Python gives up
what is no UTF-8.
"""

from collections.abc import Iterator

from registry_server.transport.der import parts

# Tags of DER: the extensions of a certificate; in the extension of names, those that count.
_EXTENSIONS = 0xA3
_DNS, _URI = 0x82, 0x86
_ALTERNATIVE_NAMES = b"\x55\x1d\x11"  # 2.5.29.17


def names_in(certificate: bytes) -> tuple[str, ...]:
    """Those of a certificate in DER, in its order, that are printable ASCII; none if it is no certificate."""
    try:
        return tuple(map(bytes.decode, filter(_is_plain, _names(certificate))))
    except (ValueError, IndexError):
        return ()


def _names(certificate: bytes) -> Iterator[bytes]:
    ((_, whole),) = parts(certificate)
    _, signed = next(parts(whole), (0, b""))
    for _, extensions in (it for it in parts(signed) if it[0] == _EXTENSIONS):
        ((_, listed),) = parts(extensions)
        for _, extension in parts(listed):
            (_, kind), *_, (_, value) = parts(extension)
            if kind == _ALTERNATIVE_NAMES:
                ((_, names),) = parts(value)
                # A host has no colon and a URI has one: neither is to be taken for the other.
                yield from (name for tag, name in parts(names) if tag == (_URI if b":" in name else _DNS))


def _is_plain(name: bytes) -> bool:
    return bool(name) and name.isascii() and name.decode().isprintable()
