#!/bin/sh
# OpenSSL 3.5 (pyOpenSSL 25.3.0, cryptography 46.0.7): of two trusted self-signed certificates of one name, one is refused.
#
# Behaviour: peers without an authority trust each other's self-signed certificates. If two of these in one store have the
# same subject and no key identifiers, only the one that was added first is accepted; the other one, in the same store
# and byte for byte the one that is presented, is "self-signed certificate": refused. Alone in a store each is accepted,
# so a test with two peers never shows it. Which of several is refused follows from the order in which they were added.
# Python's `ssl` with OpenSSL 3.0.19 does the same.
#
# Expected by most: a certificate in the store of trusted ones is accepted, whatever else is in there.
# What helps: a subject of its own for each certificate, such as a random one; or the extensions subject and authority key
# identifier, which common libraries leave out unless they are asked for.
#
# Output seen (CPython 3.11, pyOpenSSL 25.3.0, cryptography 46.0.7, OpenSSL 3.5.6):
#   one name: accepted, self-signed certificate
#   one name, each alone: accepted, accepted
#   two names: accepted, accepted
#   one name, key identifiers: accepted, accepted
#
# Exits with 0 while this is so, and with 1 once it is not. Needs a Python of 3.10 to 3.14 with venv, and PyPI.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyOpenSSL==25.3.0 cryptography==46.0.7
"$folder/venv/bin/python" -W ignore - <<'EOF'
import datetime
import sys

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

ALWAYS = datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)


def certificate(name, identifiers=False):
    """A fresh one, self-signed."""
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), *ALWAYS)
    if identifiers:
        public = key.public_key()
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    return crypto.X509.from_cryptography(builder.sign(key, None))


def verdicts(presented, trusted):
    """What comes of each that is presented, if all of these are trusted."""
    store = crypto.X509Store()
    for one in trusted:
        store.add_cert(one)
    found = []
    for one in presented:
        try:
            crypto.X509StoreContext(store, one).verify_certificate()
            found.append("accepted")
        except crypto.X509StoreContextError as error:
            found.append(str(error))
    return found


same = [certificate("peer"), certificate("peer")]
two = [certificate("one"), certificate("two")]
identified = [certificate("peer", identifiers=True) for _ in range(2)]
together, alone = verdicts(same, same), [verdicts([one], [one])[0] for one in same]
print(SSL.SSLeay_version(0).decode())
print("one name:", ", ".join(together))
print("one name, each alone:", ", ".join(alone))
print("two names:", ", ".join(verdicts(two, two)))
print("one name, key identifiers:", ", ".join(verdicts(identified, identified)))
fine = ["accepted", "accepted"]
as_described = together == ["accepted", "self-signed certificate"] and alone == fine
sys.exit(0 if as_described and verdicts(two, two) == fine == verdicts(identified, identified) else 1)
EOF
