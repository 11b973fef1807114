"""A client of TLS 1.3 that writes its records by hand, once it has shaken hands: keys without end, and crumbs."""

import socket
import ssl
import struct
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HANDSHAKE, DATA = 22, 23
KEY_UPDATE, ASKED = 24, 1
KEY_BYTES, IV_BYTES, TAG_BYTES = 32, 12, 16
SUITE = "TLS_AES_256_GCM_SHA384"
# Shorter than a server bears silence.
TIMEOUT_S = 15.0


class Records:
    """One connection, with `with`, which blocks. `directory` is where the secrets of the handshake are written."""

    def __init__(self, address: str, authority: bytes, directory: Path) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._secrets = directory / "secrets.log"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_verify_locations(cadata=authority.decode())
        self._context.set_alpn_protocols(["h2"])
        self._context.keylog_filename = str(self._secrets)

    def __enter__(self) -> Self:
        plain = socket.create_connection((self._host, int(self._port)), TIMEOUT_S)
        shaken = self._context.wrap_socket(plain, server_hostname="localhost")
        assert (shaken.cipher() or ("",))[0] == SUITE
        self.socket = socket.socket(fileno=shaken.detach())
        self.socket.settimeout(TIMEOUT_S)
        self._take_up(_secret(self._secrets.read_text()))
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def data(self, data: bytes) -> bytes:
        """A record with so much in it."""
        return self._record(DATA, data)

    def crumbs(self, data: bytes) -> bytes:
        """A record for each byte."""
        return b"".join(self.data(data[at : at + 1]) for at in range(len(data)))

    def other_keys(self) -> bytes:
        """A record that says that what follows is in other keys, and asks for the same."""
        record = self._record(HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, ASKED)))
        self._take_up(_expanded(self._secret, "traffic upd", hashes.SHA384.digest_size))
        return record

    def hears_the_end(self) -> bool:
        """Whether the server hangs up. Raises TimeoutError if it does not."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def _take_up(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(_expanded(secret, "key", KEY_BYTES))
        self._iv = int.from_bytes(_expanded(secret, "iv", IV_BYTES))
        self._number = 0

    def _record(self, kind: int, content: bytes) -> bytes:
        plain = content + bytes((kind,))
        head = struct.pack(">BHH", DATA, 0x0303, len(plain) + TAG_BYTES)
        nonce = (self._iv ^ self._number).to_bytes(IV_BYTES)
        self._number += 1
        return head + self._cipher.encrypt(nonce, plain, head)


def _secret(log: str) -> bytes:
    """What the client's records are made of, in the format of NSS key logs."""
    (line,) = [line for line in log.splitlines() if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")]
    return bytes.fromhex(line.split()[2])


def _expanded(secret: bytes, label: str, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1)."""
    name = f"tls13 {label}".encode()
    info = struct.pack(">HB", length, len(name)) + name + b"\0"
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)
