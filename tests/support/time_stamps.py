"""A time stamp authority (RFC 3161) on this machine: OpenSSL's, behind HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CONFIG = """
[tsa]
default_tsa = one
[one]
serial = {directory}/serial
crypto_device = builtin
signer_cert = {directory}/signer.pem
signer_key = {directory}/signer.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ordering = yes
tsa_name = yes
ess_cert_id_chain = no
"""


@dataclass
class Authority:
    """A running authority; with `broken`, it answers that instead of a time stamp."""

    url: str
    root: Path
    broken: bytes | None = None
    asked: int = 0


@asynccontextmanager
async def time_stamp_authority(directory: Path) -> AsyncIterator[Authority]:
    """Run an authority on a loopback address."""
    await asyncio.to_thread(_make_certificates, directory)
    authority = Authority("", directory / "root.pem")

    async def answer(request: web.Request) -> web.Response:
        authority.asked += 1
        assert request.content_type == "application/timestamp-query"
        body = await request.read()
        content = authority.broken or await _stamp(directory, body)
        return web.Response(body=content, content_type="application/timestamp-reply")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    authority.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield authority
    finally:
        await runner.cleanup()


async def openssl(*arguments: str) -> tuple[int, str]:
    """Run OpenSSL's `ts`; return its exit code and output."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("openssl", "ts", *arguments, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    return process.returncode or 0, (output + errors).decode()


async def _stamp(directory: Path, query: bytes) -> bytes:
    await asyncio.to_thread((directory / "query").write_bytes, query)
    config, answer = str(directory / "config"), directory / "answer"
    code, output = await openssl(
        "-reply", "-config", config, "-queryfile", str(directory / "query"), "-out", str(answer)
    )
    assert code == 0, output
    return await asyncio.to_thread(answer.read_bytes)


def _make_certificates(directory: Path) -> None:
    directory.mkdir()
    root_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    root = _certificate("Root", root_key, "Root", root_key, is_root=True)
    signer = _certificate("Authority", key, "Root", root_key, is_root=False)
    for name, certificate in (("root", root), ("signer", signer)):
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "signer.key").write_bytes(private)
    (directory / "serial").write_text("01\n")
    (directory / "config").write_text(CONFIG.format(directory=directory))


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: EllipticCurvePrivateKey,
    *,
    is_root: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
    )
    if not is_root:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, SHA256())
