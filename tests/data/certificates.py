"""A certificate authority for tests, which signs a certificate for Yahoo's hosts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """Write the authority's certificate, and the hosts' certificate with its key; return both paths."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests' authority")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "yahoo.com")])
    hosts = x509.SubjectAlternativeName([x509.DNSName("*.yahoo.com"), x509.DNSName("*.finance.yahoo.com")])
    authority = _sign(authority_name, authority_name, authority_key, authority_key, x509.BasicConstraints(True, 0))
    certificate = _sign(name, authority_name, key, authority_key, hosts)
    bundle, chain = folder / "authority.pem", folder / "yahoo.pem"
    bundle.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return bundle, chain


def _sign(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())
