"""The certificate of this process, and TLS that takes no other one than that of the partner.

There is no authority and no name: each end is told the other's certificate over a libp2p stream, on which that end has
proven its peer id.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import os
import secrets
import ssl
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from p2p_elastic.errors import RemoteProtocolError

ALWAYS = datetime.datetime(1970, 1, 2), datetime.datetime(9999, 12, 31)  # clocks of peers differ
TRIED_BYTES, TRIES = 1 << 18, 4
SLOW_TIMES = 2.0


class Certificate:
    """A fresh key of this process and its certificate, self-signed; neither is kept anywhere.

    Attributes:
        text: the certificate as partners are told it, DER in base64.
    """

    def __init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        # Each its own: among several of the same name OpenSSL looks at one, and may refuse the certificate that is due.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, secrets.token_hex(8))])
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *ALWAYS)
        made = builder.sign(key, None)
        self._pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._pem += made.public_bytes(Encoding.PEM)
        self.text = base64.b64encode(made.public_bytes(Encoding.DER)).decode()

    def dialling(self, partner: bytes) -> ssl.SSLContext:
        """Make the context of the end that dials.

        Args:
            partner: the only certificate that the other end may have, DER.

        Returns:
            The context: TLS 1.3, both certificates required.
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT, [partner])

    def listening(self, partners: Collection[bytes]) -> ssl.SSLContext:
        """Make the context of the end that is dialled.

        Args:
            partners: the certificates that the other end may have, DER; `certificate_of` says which one it has.

        Returns:
            The context: TLS 1.3, both certificates required.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER, partners)
        context.num_tickets = 0  # nobody resumes, and a ticket would be read beside a sender
        return context

    def _context(self, protocol: int, partners: Collection[bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        with tempfile.TemporaryDirectory(prefix="p2p-elastic-") as folder:  # `ssl` reads keys from files only
            path = Path(folder, "key")
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(self._pem)
            context.load_cert_chain(path)
        for partner in partners:
            context.load_verify_locations(cadata=partner)
        return context


def decoded(text: str) -> bytes:
    """Read a certificate as a partner told it.

    Args:
        text: DER in base64.

    Returns:
        DER, which TLS can trust.

    Raises:
        RemoteProtocolError: if it is no certificate.
    """
    try:
        found = base64.b64decode(text, validate=True)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (binascii.Error, ssl.SSLError) as error:
        raise RemoteProtocolError(f"told no certificate: {error}") from error
    return found


def aes_is_slow() -> bool:
    """Measure whether this processor lacks instructions for AES, with which TLS of Python encrypts: in a millisecond.

    Python before 3.15 cannot choose another cipher of TLS 1.3. libp2p has ChaCha20, which needs no instructions.

    Returns:
        True if AES takes more than SLOW_TIMES as long as ChaCha20.
    """

    def seconds(cipher: AESGCM | ChaCha20Poly1305) -> float:
        data, nonce, took = bytes(TRIED_BYTES), bytes(12), []
        for _ in range(TRIES):
            began = time.perf_counter()
            cipher.encrypt(nonce, data, None)
            took.append(time.perf_counter() - began)
        return min(took)

    key = bytes(32)
    try:
        return seconds(AESGCM(key)) > SLOW_TIMES * seconds(ChaCha20Poly1305(key))
    except UnsupportedAlgorithm:  # such as an OpenSSL in FIPS mode, without ChaCha20
        return False
