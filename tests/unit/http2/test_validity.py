"""When a certificate is good, read from what was signed."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry_server.transport.der import validity
from tests.support.tls import LOCAL, Authority


def certificate(begins: datetime.datetime, ends: datetime.datetime) -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begins, ends)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@pytest.mark.parametrize(("first", "last"), [(1950, 1999), (2000, 2049), (2049, 2050), (2050, 9999)])
def test_years_of_all_centuries(first: int, last: int) -> None:
    """From 2050 on a year has four digits."""
    begins = datetime.datetime(first, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    ends = datetime.datetime(last, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    assert validity(certificate(begins, ends)) == (begins, ends)


def test_the_first_of_a_chain_counts_whatever_stands_before_it() -> None:
    expired, good = Authority().pair(*LOCAL, expired=True).cert, Authority().pair(*LOCAL).cert
    found = validity(b"subject=\xff\n" + expired + good)
    assert found is not None
    assert found[1] == datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def test_what_cannot_be_read_has_no_times() -> None:
    mark, end = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    for inside in (b"?", b"MIIB", b"MAA=", b"MAIwAA==", b"", b"A"):
        assert validity(mark + inside + end) is None
    assert validity(b"") is None
