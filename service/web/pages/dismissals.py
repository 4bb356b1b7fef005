"""The forms and buttons of dismissals: of an e-mail, a webhook in quarantine, a finding.

Each form is a page of its own: a live page would reset the field while somebody writes a reason.
"""

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.operate import dismiss
from service.postgres.selection import MOST_REASON
from service.queries.emails import get_email
from service.queries.webhooks import get_quarantined
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, form, number
from service.web.handling.routes import Routes
from service.web.pages.frame import redirect, show

routes = Routes()


class ReasonForm(BaseModel):
    """The form of a dismissal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(max_length=MOST_REASON)


@routes.get("/emails/{id}/dismiss")
async def ask_reason_of_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    email = await ask(request, get_email(request.app[RES].engine, email_id))
    reason = email.processing_error if email.processing_status == "failed" else email.sync_error
    return await _ask_reason(request, f"e-mail {email_id}", f"/emails/{email_id}", reason)


@routes.post("/emails/{id}/dismiss")
async def dismiss_email(request: web.Request) -> web.Response:
    email_id, given = number(request, "id"), await form(request, ReasonForm)
    await ask(request, dismiss.dismiss(request.app[RES], email_id, request[IDENTITY].actor, given.reason))
    return redirect(f"/emails/{email_id}", "dismissed")


@routes.post("/emails/{id}/undismiss")
async def undismiss_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    await ask(request, dismiss.undismiss(request.app[RES], email_id, request[IDENTITY].actor))
    return redirect(f"/emails/{email_id}", "undismissed")


@routes.get("/quarantine/{id}/dismiss")
async def ask_reason_of_webhook(request: web.Request) -> web.Response:
    webhook_id = number(request, "id")
    webhook = await ask(request, get_quarantined(request.app[RES].engine, webhook_id))
    return await _ask_reason(request, f"request {webhook_id}", f"/quarantine/{webhook_id}", webhook.error)


@routes.post("/quarantine/{id}/dismiss")
async def dismiss_webhook(request: web.Request) -> web.Response:
    webhook_id, given = number(request, "id"), await form(request, ReasonForm)
    actor = request[IDENTITY].actor
    await ask(request, dismiss.dismiss_webhook(request.app[RES], webhook_id, actor, given.reason))
    return redirect(f"/quarantine/{webhook_id}", "dismissed")


@routes.post("/quarantine/{id}/undismiss")
async def undismiss_webhook(request: web.Request) -> web.Response:
    webhook_id = number(request, "id")
    await ask(request, dismiss.undismiss_webhook(request.app[RES], webhook_id, request[IDENTITY].actor))
    return redirect(f"/quarantine/{webhook_id}", "undismissed")


@routes.get("/reconciliations/{id}/findings/{finding}/dismiss")
async def ask_reason_of_finding(request: web.Request) -> web.Response:
    run, finding_id = f"/reconciliations/{number(request, 'id')}", number(request, "finding")
    return await _ask_reason(request, f"finding {finding_id}", run, None, f"{run}/findings/{finding_id}")


@routes.post("/reconciliations/{id}/findings/{finding}/dismiss")
async def dismiss_finding(request: web.Request) -> web.Response:
    finding_id, given = number(request, "finding"), await form(request, ReasonForm)
    actor = request[IDENTITY].actor
    await ask(request, dismiss.dismiss_finding(request.app[RES], finding_id, actor, given.reason))
    return redirect(f"/reconciliations/{number(request, 'id')}", "dismissed")


@routes.post("/reconciliations/{id}/findings/{finding}/undismiss")
async def undismiss_finding(request: web.Request) -> web.Response:
    finding_id, actor = number(request, "finding"), request[IDENTITY].actor
    await ask(request, dismiss.undismiss_finding(request.app[RES], finding_id, actor))
    return redirect(f"/reconciliations/{number(request, 'id')}", "undismissed")


async def _ask_reason(
    request: web.Request, subject: str, back: str, error: str | None, path: str = ""
) -> web.Response:
    action = f"{path or back}/dismiss"
    return await show(
        request, "dismiss.html", subject=subject, action=action, back=back, error=error, most=MOST_REASON
    )
