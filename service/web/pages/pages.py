"""The pages for operators: each runs one query and fills one template."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from markupsafe import Markup

from service.errors import Rejected
from service.queries import actions, emails, failures, reconciliations, retries
from service.queries.headings import HeadingView, headings_of
from service.queries.neighbours import neighbours_of
from service.queries.pages import PageFilter
from service.queries.saved_filters import list_filters
from service.queries.views import EmailDetail
from service.queries.webhooks import webhooks_of
from service.web.auth.tokens import visible
from service.web.handling.keys import RES
from service.web.handling.requests import ask, number
from service.web.handling.routes import Routes
from service.web.pages import filters, findings, remedies, timeline
from service.web.pages.excerpts import readable, shortened_email
from service.web.pages.frame import show
from service.web.pages.live import LIVE
from service.web.pages.message import shown_message
from service.web.pages.previews import is_shown
from service.zendesk.account import Account

routes = Routes()


@routes.get("/")
async def show_overview(request: web.Request) -> web.Response:
    snapshot = await request.app[LIVE].snapshot()
    status = 503 if snapshot.error else 200
    return await show(request, "overview.html", status=status, body=Markup(snapshot.html))  # noqa: S704 our template


@routes.get("/emails")
async def list_emails(request: web.Request) -> web.Response:
    """Show a page of e-mails, or the error in its filter."""
    query = filters.read(request)
    address = query.live(on=query.is_live)
    has_empty = not all(value.strip() for value in request.query.values())
    if query.filter and has_empty and "HX-Request" not in request.headers:
        raise web.HTTPSeeOther(address)
    page = None
    if query.filter:
        page = await ask(request, emails.list_emails(request.app[RES].engine, query.filter))
    saved = []
    if "HX-Request" not in request.headers:
        saved = [*(await ask(request, list_filters(request.app[RES].engine))).filters]
    has_sync = bool(request.app[RES].settings.sync_url) or "sync_status" in query.chosen
    answer = await show(
        request,
        "emails.html",
        status=200 if page else 400,
        query=query,
        page=page,
        has_sync=has_sync,
        remedy=remedies.of_list(query.filter),
        saved=[(each.name, filters.address(filters.words_of(each.filter))) for each in saved],
    )
    if not (query.is_live or "cursor" in query.values):  # without the empty fields of the form
        answer.headers["HX-Push-Url"] = address
    return answer


@routes.get("/emails/{id}")
async def show_email(request: web.Request) -> web.Response:
    res, email_id = request.app[RES], number(request, "id")
    email, is_cut = shortened_email(await ask(request, emails.get_email(res.engine, email_id)))
    has_target, as_text = bool(res.settings.sync_url), request.query.get("view") == "text"
    query = filters.read(request)
    return await show(
        request,
        "email.html",
        email=email,
        message=shown_message(email, as_text=as_text),
        as_text=as_text,
        around=await ask(request, neighbours_of(res.engine, email)),
        place=await _place(request, query, email_id),
        query=query,
        is_cut=is_cut,
        raw=await _raw(request, email_id),
        events=timeline.events(email),
        state=timeline.state_of(email),
        sync=timeline.sync_state_of(email, has_target=has_target),
        has_target=has_target,
        ticket_url=_ticket_url(res.account, email),
        **remedies.of_email(email, res.account),
        previews={file.position for file in email.attachments if is_shown(file)},
        webhooks=await ask(request, webhooks_of(res.engine, email_id)),
        is_over=email.processing_status in {"completed", "failed"},
    )


@routes.get("/failures")
async def list_failures(request: web.Request) -> web.Response:
    return await show(
        request, "failures.html", page=await ask(request, failures.list_failures(request.app[RES].engine))
    )


@routes.get("/retries")
async def list_retries(request: web.Request) -> web.Response:
    page = await ask(request, retries.list_retries(request.app[RES].engine))
    chosen = {retry.id: filters.words_of(retry.filter) for retry in page.retries}
    links = {each.id: filters.address(chosen[each.id], filters.list_of(each.what)) for each in page.retries}
    is_running = any(retry.settled_at is None for retry in page.retries)
    return await show(request, "retries.html", page=page, chosen=chosen, links=links, is_running=is_running)


@routes.get("/reconciliations")
async def list_reconciliations(request: web.Request) -> web.Response:
    wanted = filters.parameters(request, PageFilter)
    page = await ask(request, reconciliations.list_reconciliations(request.app[RES].engine, wanted))
    onward = filters.onward(request, page.next_cursor)
    is_running = any(run.status == "running" for run in page.reconciliations)
    return await show(request, "reconciliations.html", page=page, onward=onward, is_running=is_running)


@routes.get("/reconciliations/{id}")
async def show_reconciliation(request: web.Request) -> web.Response:
    wanted, run_id = filters.parameters(request, PageFilter), number(request, "id")
    run = await ask(request, reconciliations.get_reconciliation(request.app[RES].engine, run_id, wanted))
    onward = filters.onward(request, run.next_cursor)
    headings = await _headings(request, [finding.email_id for finding in run.findings])
    about: dict[str, Any] = {
        "sentences": findings.SENTENCES,
        "commands": findings.COMMANDS,
        "buttons": findings.BUTTONS,
        "syncs": findings.plan_of_syncs(run.findings),
    }
    return await show(request, "reconciliation.html", run=run, onward=onward, headings=headings, **about)


@routes.get("/activity")
async def list_actions(request: web.Request) -> web.Response:
    wanted = filters.parameters(request, PageFilter)
    page = await ask(request, actions.list_actions(request.app[RES].engine, wanted))
    onward = filters.onward(request, page.next_cursor)
    headings = await _headings(request, [action.email_id for action in page.actions])
    return await show(request, "activity.html", page=page, onward=onward, headings=headings)


async def _place(request: web.Request, query: filters.EmailQuery, email_id: int) -> filters.Place | None:
    """Find the e-mail in the list that it was opened from; None if that list is of all e-mails."""
    if not (query.filter and query.chosen):
        return None
    page = await ask(request, emails.list_emails(request.app[RES].engine, query.filter))
    return query.place_of(email_id, page.emails)


async def _headings(request: web.Request, email_ids: Sequence[int | None]) -> Mapping[int, HeadingView]:
    return await ask(request, headings_of(request.app[RES].engine, email_ids))


async def _raw(request: web.Request, email_id: int) -> dict[str, Any] | None:
    try:
        raw = await ask(request, emails.get_request(request.app[RES].engine, email_id))
    except Rejected:  # older than the table of requests
        return None
    return await asyncio.to_thread(readable, visible(request, raw))


def _ticket_url(account: Account, email: EmailDetail) -> str | None:
    ticket = email.zendesk_ticket_id
    if account.url is None or not (ticket.isascii() and ticket.isdigit()):
        return None
    return str(account.url.with_path(f"/agent/tickets/{ticket}"))
