"""SHELL: TLS towards a registry: the files it is made of, and what is wrong when it does not come about."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias

import grpc

from registry_client import checks
from registry_client.errors import InvalidArgument, WrongType, tls_trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

PEM: TypeAlias = str | PathLike[str] | bytes

# How long somebody may take to answer a look at what is wrong with TLS.
LOOK_S = 1.0
MAX_BYTES = 1024 * 1024
# How HTTP/2 begins: whoever looks says that, and is not taken for somebody who does not like what he saw.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
# What who looks offers beside HTTP/2: a registry without TLS does not say in its log that a client speaks it.
LOOKS = "grpc-registry-look"
# Some editors begin a file with it, and gRPC's core takes the file for one without a certificate.
_BOM = b"\xef\xbb\xbf"
_MARKS = {"ca": b"-----BEGIN CERTIFICATE-----", "cert": b"-----BEGIN CERTIFICATE-----", "key": b"PRIVATE KEY-----"}


class Contents(NamedTuple):
    """What the files say; None for what is not given."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS towards a registry: `connect("registry.example:7400", tls=TLS(ca="ca.pem"))`.

    Each is the path of a PEM file, or what is in one as bytes. `ca`: whom to trust, by default the authorities that
    gRPC brings. `cert` and `key`: what this client shows, if the registry asks for it. Files are read again for new
    connections, so they may change. Raises InvalidArgument.
    """

    ca: PEM | None = None
    cert: PEM | None = None
    key: PEM | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in _MARKS:
            given: object = getattr(self, name)
            if given is not None and not isinstance(given, str | PathLike | bytes):
                rule = "must be the path of a PEM file, or its bytes"
                raise WrongType(f"tls.{name}: {rule}, is {type(given).__name__}", f"tls.{name}")
        for one, other in (("cert", "key"), ("key", "cert")):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise checks.wrong(f"tls.{other}", f"must be there with tls.{one}")

    def read(self) -> Contents:
        """What is in the files now. Raises InvalidArgument, with the field, for what cannot be used."""
        contents = self._contents()
        self.context()
        return contents

    def _contents(self) -> Contents:
        return Contents(_content("ca", self.ca), _content("cert", self.cert), _content("key", self.key))

    def read_again(self, before: Contents) -> Contents:
        """The same; as it was before while it cannot be used, as while somebody writes the files. What has not changed
        is not tried again, which takes a while: this is asked whenever a call fails."""
        try:
            return before if self._contents() == before else self.read()
        except InvalidArgument:
            return before

    def context(self) -> ssl.SSLContext:
        """For Python's own TLS, which says what is wrong in clear words. Raises InvalidArgument."""
        context = self._trusting()
        # As gRPC: many authorities lack an extension or two, and one that another one signed will do.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.set_alpn_protocols(["h2", LOOKS])
        if self.cert is not None and self.key is not None:
            self._show(context, self.cert, self.key)
        return context

    def _show(self, context: ssl.SSLContext, cert: PEM, key: PEM) -> None:
        try:
            with _file(cert) as cert_file, _file(key) as key_file:
                # A key that needs a password is refused. Without one here, it would be asked for at the terminal.
                context.load_cert_chain(cert_file, key_file, password="")
        except _NoFile:
            return
        except (OSError, ValueError) as error:
            if "KEY_VALUES_MISMATCH" in str(error):
                whose = "tls.cert" if isinstance(cert, bytes) else _shown(cert)
                raise checks.wrong("tls.key", f"{_shown(key)}: is not the key of {whose}") from None
            if isinstance(key, bytes) and _is_certificate(cert):
                raise checks.wrong("tls.key", "the bytes: cannot be used") from None
            both = _shown(cert) if isinstance(key, bytes) else f"{_shown(cert)}, {_shown(key)}"
            raise checks.wrong("tls.cert", f"{both}: cannot be used") from None

    def _trusting(self) -> ssl.SSLContext:
        """With `ca` it alone is trusted."""
        try:
            if isinstance(self.ca, bytes):
                return ssl.create_default_context(cadata=self.ca.decode("ascii", "ignore"))  # comments may say more
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError):  # an SSLError is an OSError
            raise checks.wrong("tls.ca", f"{_shown(self.ca)}: cannot be used") from None


async def trouble_with_any(tls: TLS | None, address: str) -> str:
    """What goes wrong at an address, HOST:PORT, with these files; nothing if that cannot be told without them."""
    if tls is None:
        return ""
    try:
        return await trouble_with(address, tls.context())
    except InvalidArgument as error:
        return str(error)


async def trouble_with(address: str, context: ssl.SSLContext) -> str:
    """What goes wrong with TLS at an address, HOST:PORT, in a line; nothing if all is well, or nobody can tell."""
    host, _, port = address.rpartition(":")
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(LOOK_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            writer.write(PREFACE)
            await reader.read(1)  # who does not like our certificate says so only now
    except ssl.SSLCertVerificationError as error:
        return tls_trouble(f"CERTIFICATE_VERIFY_FAILED: {error.verify_message}")
    except ssl.SSLError as error:
        return tls_trouble(error.reason or "")
    except (OSError, ValueError):
        return ""
    finally:
        if writer is not None:
            writer.transport.abort()
    return ""


def _content(name: str, given: PEM | None) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, bytes):
        content = given
    else:
        path = checks.text(f"tls.{name}", fspath(given))
        try:
            content = _text(name, Path(path))
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise checks.wrong(f"tls.{name}", f"{checks.shown_path(path)}: {said}") from None
    if _MARKS[name] not in content:
        what = "key" if name == "key" else "certificate"
        raise checks.wrong(f"tls.{name}", f"{_shown(given)}: there is no {what} in PEM in it")
    if name == "key" and b"ENCRYPTED" in content:
        raise checks.wrong("tls.key", f"{_shown(given)}: needs a password: write the key without one")
    return content.removeprefix(_BOM)


def _text(name: str, path: Path) -> bytes:
    """What is in a file. A pipe would be waited for, and a device read for ever: neither is one."""
    if not path.is_file() and path.exists() and not path.is_dir():
        raise checks.wrong(f"tls.{name}", f"{checks.shown_path(path)}: is no regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise checks.wrong(f"tls.{name}", f"{checks.shown_path(path)}: is larger than {MAX_BYTES} bytes")
    return content


@contextmanager
def _file(given: PEM) -> Iterator[str]:
    """Its path, for OpenSSL, which takes a key from a file alone. That of bytes has no name, is nobody else's, and is
    gone at once. Raises _NoFile where there is none to be had."""
    if not isinstance(given, bytes):
        yield fspath(given)
        return
    try:
        file = _nameless(given)
    except OSError as error:
        raise _NoFile from error
    with file:
        if not Path(path := f"/dev/fd/{file.fileno()}").exists():
            raise _NoFile
        yield path


def _nameless(content: bytes) -> IO[bytes]:
    """In memory where the system has that."""
    file = os.fdopen(os.memfd_create("tls"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile()  # noqa: SIM115
    try:
        file.write(content)
        file.seek(0)
    except OSError:
        file.close()
        raise
    return file


class _NoFile(Exception):
    """What is given as bytes cannot be looked at by OpenSSL here."""


def _is_certificate(cert: PEM) -> bool:
    """Whether it is one, by itself."""
    try:
        with _file(cert) as path:
            ssl.create_default_context(cafile=path)
    except (OSError, ValueError, _NoFile):
        return False
    return True


def _shown(given: PEM | None) -> str:
    return "the bytes" if isinstance(given, bytes) or given is None else checks.shown_path(fspath(given))
