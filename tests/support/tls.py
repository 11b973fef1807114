"""Certificates for tests: an authority, and what it signs, with names of all kinds; in memory and as files."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry_server.transport.tls import Certificates, TLSFiles

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key in PEM."""

    cert: bytes
    key: bytes

    def write(self, directory: Path, name: str = "server") -> "PairFiles":
        """As two files, or over them."""
        files = PairFiles(directory / f"{name}.pem", directory / f"{name}-key.pem")
        files.cert.write_bytes(self.cert)
        files.key.write_bytes(self.key)
        return files


@dataclass(frozen=True)
class PairFiles:
    """Where they are."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; itself signed by the one above it, if there is one."""

    def __init__(self, above: "Authority | None" = None) -> None:
        self._ca: trustme.CA = trustme.CA() if above is None else above._ca.create_child_ca()
        self.pem = self._ca.cert_pem.bytes()

    def write(self, directory: Path, name: str = "ca") -> Path:
        """Its certificate as a file."""
        (path := directory / f"{name}.pem").write_bytes(self.pem)
        return path

    def pair(self, *names: str, expired: bool = False) -> Pair:
        """For DNS names and IP addresses, or URIs."""
        if any("://" in name for name in names):
            return self._of_uris(*names)
        cert = self._ca.issue_cert(*names, not_after=LONG_AGO if expired else None)
        return Pair(b"".join(each.bytes() for each in cert.cert_chain_pems), cert.private_key_pem.bytes())

    def _of_uris(self, *names: str) -> Pair:
        both = [x509.UniformResourceIdentifier(it) if "://" in it else x509.DNSName(it) for it in names]
        return self._signed(x509.SubjectAlternativeName(both))

    def pair_as_said(self, *names: tuple[int, bytes]) -> Pair:
        """For names that no honest authority would sign: the tag of each in DER, and its bytes, up to 100 in all."""
        said = b"".join(bytes((tag, len(name))) + name for tag, name in names)
        sequence = bytes((0x30, len(said))) + said
        return self._signed(x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, sequence))

    def _signed(self, names: x509.ExtensionType) -> Pair:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        authority = x509.load_pem_x509_certificate(self.pem)
        signing = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(names, critical=True)
            .sign(signing, hashes.SHA256())
        )
        encoding, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return Pair(made.public_bytes(encoding), key.private_bytes(encoding, pkcs8, serialization.NoEncryption()))

    def trusting(self, client: Pair | None = None) -> grpc.ChannelCredentials:
        """For gRPC clients that trust it, and may show a certificate."""
        key, cert = (client.key, client.cert) if client else (None, None)
        return grpc.ssl_channel_credentials(self.pem, key, cert)


def certificates_of(pair: Pair, client_ca: Authority | None = None) -> Certificates:
    """What a server shows, of no files that stay."""
    with TemporaryDirectory() as name:
        files = pair.write(Path(name))
        ca = str(client_ca.write(Path(name))) if client_ca else ""
        return Certificates(TLSFiles(str(files.cert), str(files.key), ca))
