"""Send a notice by mail through one SMTP server."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import aiosmtplib

from service.alerts.message import Notice
from service.errors import HoldfastError, Permanent, Transient

SECONDS = 20.0  # in all
STEP_SECONDS = 10.0
QUIT_SECONDS = 1.0


class SmtpReply(Protocol):
    """A server's reply: the common part of two types of aiosmtplib."""

    @property
    def code(self) -> int: ...


@dataclass(frozen=True)
class Envelope:
    """Sender and recipients, as plain addresses."""

    sender: str
    recipients: Sequence[str]


async def send(url: str, envelope: Envelope, notice: Notice) -> str | None:
    """Send a notice to all recipients; raises Transient or Permanent, whose texts never show the server's address.

    Returns a remark if some recipients were refused; the others have the mail and must not get it twice.
    """
    server = _server(urlsplit(url), envelope)
    try:
        async with asyncio.timeout(SECONDS):
            await server.connect()
            refused, _ = await server.send_message(_message(envelope, notice))
    except (aiosmtplib.SMTPException, OSError, ValueError) as exc:
        raise _translate(exc) from None
    else:
        # The mail is sent, even if QUIT fails.
        with suppress(aiosmtplib.SMTPException, OSError):
            async with asyncio.timeout(QUIT_SECONDS):
                await server.quit()
    finally:
        server.close()
    return f"refused for some recipients: {_codes(refused.values())}" if refused else None


def _server(parts: SplitResult, envelope: Envelope) -> aiosmtplib.SMTP:
    is_tls = parts.scheme == "smtps"
    # Without a password STARTTLS is optional; a password is never sent without TLS.
    start_tls = False if is_tls else (True if parts.username else None)
    return aiosmtplib.SMTP(
        hostname=parts.hostname,
        port=parts.port or (465 if is_tls else 587),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password or "") if parts.username else None,
        use_tls=is_tls,
        start_tls=start_tls,
        timeout=STEP_SECONDS,
        local_hostname=envelope.sender.rpartition("@")[2],  # the default would need a name server
    )


def _message(envelope: Envelope, notice: Notice) -> EmailMessage:
    domain = envelope.sender.rpartition("@")[2]
    message = EmailMessage()
    message["From"] = envelope.sender
    message["To"] = ", ".join(envelope.recipients)
    message["Subject"] = f"[Holdfast] {notice.title}"
    message["Date"] = format_datetime(notice.at)
    message["Message-ID"] = f"<{notice.id}@{domain}>"
    if notice.follows:
        message["In-Reply-To"] = message["References"] = f"<{notice.follows}@{domain}>"
    # Keeps autoresponders quiet, above all help desks that would make a ticket.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content("\n\n".join(part for part in (notice.text, notice.link) if part) + "\n")
    return message


def _translate(exc: Exception) -> HoldfastError:
    cause = exc.__cause__ or exc
    if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
        kind = Transient if any(refusal.code < 500 for refusal in exc.recipients) else Permanent
        return kind("recipients_refused", f"refused for all recipients: {_codes(exc.recipients)}")
    if isinstance(exc, aiosmtplib.SMTPResponseException):
        kind = Transient if exc.code < 500 else Permanent
        return kind("mail_refused", f"the mail server answered {exc.code} ({type(exc).__name__})")
    if isinstance(exc, TimeoutError):
        return Transient("mail_server_slow", f"the mail server did not answer within {STEP_SECONDS:g} s")
    if isinstance(cause, ssl.SSLError):
        return Transient("tls_failed", f"no secure connection to the mail server: {cause.reason}")
    if isinstance(exc, OSError):
        return Transient("mail_server_away", f"the mail server cannot be reached: {type(cause).__name__}")
    # Such as a password without STARTTLS, no common login method, or an invalid address.
    return Permanent("mail_refused", f"the mail cannot be sent: {exc}")


def _codes(refusals: Iterable[SmtpReply]) -> str:
    return ", ".join(sorted({str(refusal.code) for refusal in refusals}))
