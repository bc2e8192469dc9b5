"""A certificate authority of one test's own, and the certificates that it signs."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs for 127.0.0.1 and localhost; ``certificate`` is the file that makes it trusted."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=0)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self._certificate = (
            self._unsigned(name, self._key.public_key())
            .add_extension(basic, critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / f"{name}.crt"
        self.certificate.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        begins: timedelta = -DAY,
        ends: timedelta = 90 * DAY,
        password: str = "",
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    ) -> Pair:
        """A certificate for a server or a client on this machine, in files named after it."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = (
            self._unsigned(name, key.public_key(), begins, ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password.encode())
                if password
                else serialization.NoEncryption(),
            )
        )
        pair.key.chmod(0o600)
        return pair

    def _unsigned(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        begins: timedelta = -DAY,
        ends: timedelta = 90 * DAY,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )


class Encryption:
    """What servers and clients need to speak TLS, and TLS only."""

    def __init__(self, folder: Path, *, client_certificates: bool = False) -> None:
        self.authority = Authority(folder, "authority")
        self.stranger = Authority(folder, "stranger")
        self._server, self._client = self.authority.issue("server"), self.authority.issue("client")
        self._asks = client_certificates

    def arguments(self, port: int) -> tuple[str, ...]:
        """Options of a server, replica, sentinel or cluster node, which go on to its peers too."""
        return (
            "--port", "0", "--tls-port", str(port),
            "--tls-cert-file", str(self._server.certificate),
            "--tls-key-file", str(self._server.key),
            "--tls-ca-cert-file", str(self.authority.certificate),
            "--tls-auth-clients", "yes" if self._asks else "no",
            "--tls-replication", "yes", "--tls-cluster", "yes",
        )  # fmt: skip

    @property
    def access(self) -> dict[str, Any]:
        """What the test's own commands connect with."""
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.authority.certificate),
            "ssl_certfile": str(self._client.certificate),
            "ssl_keyfile": str(self._client.key),
        }

    def query(self, trusted: Authority | None = None, *, shown: bool | None = None) -> str:
        """Of a URL: whom to trust, and the client's own certificate when it is to be ``shown``
        (by default when the servers ask for it)."""
        told = f"ssl_ca_certs={_quoted((trusted or self.authority).certificate)}"
        if self._asks if shown is None else shown:
            told += f"&ssl_certfile={_quoted(self._client.certificate)}"
            told += f"&ssl_keyfile={_quoted(self._client.key)}"
        return told


def _quoted(path: Path) -> str:
    return quote(str(path), safe="")


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
