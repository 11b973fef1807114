"""SHELL: what this server shows over TLS and whom it lets in: files that are read again when they change.

Who is connected stays. A pair that is half written, or broken, is not taken: the one before stays, and a line says so
if it is still broken at the next look.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from registry_server.aside import aside
from registry_server.transport.der import validity

log = logging.getLogger(__name__)

# How often the files are read.
LOOK_S = 1.0
MAX_BYTES = 1024 * 1024
# Some editors begin a file with it, and gRPC's core takes the file for one without a certificate.
_BOM = b"\xef\xbb\xbf"
# Those of TLS 1.2 that HTTP/2 takes; 1.3 has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Paths of PEM files. With `client_ca`, clients need a certificate that one of its authorities signed."""

    cert: str
    key: str
    client_ca: str = ""


class PEMs(NamedTuple):
    """What was in them; empty for none."""

    cert: bytes
    key: bytes
    client_ca: bytes


class BadCertificates(Exception):
    """The files cannot be used. The text is one line and names the file; `setting` is that of the file."""

    def __init__(self, setting: str, text: str) -> None:
        super().__init__(text)
        self.setting = setting


class Certificates:
    """What the files were when they were whole last. `clock` gives seconds since 1970.

    Raises BadCertificates if they are not whole now.
    """

    def __init__(self, files: TLSFiles, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._clock = clock
        self._contents, self._context = _load(files)
        self._out_of_time = ""  # what was said of that
        self._trouble = ""  # why what is in them at the moment is not taken
        self._is_told = False

    @property
    def context(self) -> ssl.SSLContext:
        """For who connects now."""
        return self._context

    @property
    def contents(self) -> PEMs:
        """The same, for who makes something else of it."""
        return self._contents

    @property
    def asks_clients(self) -> bool:
        """Whether clients need a certificate."""
        return bool(self._files.client_ca)

    async def watch(self) -> None:
        """Look at the files now and then, until cancelled. A disk that hangs holds one thread, and no end."""
        self.look_at_dates()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await aside(self.look)
            except RuntimeError as error:  # there is no thread to be had
                log.warning("whether the certificate has changed cannot be seen for now: %s", error)

    def look(self) -> None:
        """Take what is in the files, if it has changed and is whole."""
        try:
            self._read_again()
        except BadCertificates as error:
            self._complain(str(error))
        except Exception:
            log.exception("a mistake of this server in reading its certificate: what it showed before it shows on")
        else:
            self._trouble = ""
        self.look_at_dates()

    def _read_again(self) -> None:
        if _read(self._files) != self._contents:
            self._contents, self._context = _load(self._files)
            log.info("%s was read again: it is shown to who connects from now on", self._files.cert)

    def look_at_dates(self) -> None:
        """Say, once, that no client will take what is shown: too late, or too early."""
        trouble = _out_of_time(self._contents.cert, datetime.fromtimestamp(self._clock(), UTC))
        if trouble and trouble != self._out_of_time:
            log.warning("%s: %s; clients will not connect", self._files.cert, trouble)
        self._out_of_time = trouble

    def _complain(self, trouble: str) -> None:
        """Say so, once, when two looks in a row found the same: until then somebody may be writing the files."""
        if trouble != self._trouble:
            self._trouble, self._is_told = trouble, False
        elif not self._is_told:
            self._is_told = True
            log.warning("the certificate is not read again, and the one before is shown on: %s", trouble)


def _load(files: TLSFiles) -> tuple[PEMs, ssl.SSLContext]:
    """What is in the files, and what a handshake makes of it; of one state of all of them. Raises BadCertificates."""
    contents = _read(files)
    context = _made(files, contents)
    if _read(files) != contents:
        raise BadCertificates("tls_cert", f"{files.cert}: is being written")
    return contents, context


def _made(files: TLSFiles, contents: PEMs) -> ssl.SSLContext:
    _check(files, contents)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0  # who comes back shows its certificate again
    context.set_alpn_protocols(["h2"])
    try:
        # A key that needs a password is refused. Without one here, it would be asked for at the terminal.
        context.load_cert_chain(files.cert, files.key, password="")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        if "KEY_VALUES_MISMATCH" in str(error):
            raise BadCertificates("tls_key", f"{files.key}: is not the key of {files.cert}") from None
        raise BadCertificates("tls_cert", f"{files.cert} and {files.key}: cannot be used: {_why(error)}") from None
    if files.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: one that another one signed will do
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise BadCertificates("tls_client_ca", f"{files.client_ca}: cannot be used: {_why(error)}") from None
    return context


def _out_of_time(cert: bytes, now: datetime) -> str:
    """What is wrong with the dates of a certificate; nothing if all is well, or they cannot be read."""
    begins, ends = validity(cert) or (now, now)
    if now > ends:
        return f"has expired on {ends:%Y-%m-%d at %H:%M:%S} UTC"
    return f"is not valid before {begins:%Y-%m-%d at %H:%M:%S} UTC" if now < begins else ""


def _check(files: TLSFiles, contents: PEMs) -> None:
    """Say which file is of another kind than it should be; what is wrong within one, OpenSSL says."""
    for name, path, content, mark in (
        ("tls_cert", files.cert, contents.cert, b"-----BEGIN CERTIFICATE-----"),
        ("tls_key", files.key, contents.key, b"PRIVATE KEY-----"),
        ("tls_client_ca", files.client_ca, contents.client_ca, b"-----BEGIN CERTIFICATE-----"),
    ):
        if path and mark not in content:
            what = "key" if name == "tls_key" else "certificate"
            raise BadCertificates(name, f"{path}: there is no {what} in PEM in it")
    if b"ENCRYPTED" in contents.key:
        raise BadCertificates("tls_key", f"{files.key}: needs a password: write the key without one")


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _read(files: TLSFiles) -> PEMs:
    return PEMs(
        _content("tls_cert", files.cert),
        _content("tls_key", files.key),
        _content("tls_client_ca", files.client_ca) if files.client_ca else b"",
    )


def _content(setting: str, path: str) -> bytes:
    """What is in a file. A pipe would be waited for, and a device read for ever: neither is one."""
    try:
        file = Path(path)
        if not file.is_file() and file.exists():
            raise BadCertificates(setting, f"{path}: is no regular file")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadCertificates(setting, f"{path}: {_why(error)}") from None
    if len(content) > MAX_BYTES:
        raise BadCertificates(setting, f"{path}: is larger than {MAX_BYTES} bytes")
    return content.removeprefix(_BOM)
