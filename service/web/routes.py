"""All routes of the API, in the order in which they are described: a row is all that a new one needs."""

from service.queries.actions import ActionPage
from service.queries.alerts import AlertPage
from service.queries.emails import EmailFilter
from service.queries.failures import FailurePage
from service.queries.overview import Overview, Stats
from service.queries.pages import PageFilter
from service.queries.quarantine import QuarantineFilter
from service.queries.reconciliations import ReconciliationDetail, ReconciliationPage
from service.queries.retries import BulkRetryPage, BulkRetryView
from service.queries.views import (
    EmailDetail,
    EmailPage,
    HoldersPage,
    QuarantineDetail,
    QuarantinePage,
    RequestView,
)
from service.web import api, operations, quarantine, reconciliations
from service.web.answers import Queued, Replayed
from service.web.open_routes import OPEN
from service.web.route import Route

API = (
    Route(
        method="GET",
        path="/api/v1/emails",
        handler=api.list_emails,
        tag="E-mails",
        summary="List e-mails, newest first",
        query=EmailFilter,
        answer=EmailPage,
    ),
    Route(
        method="GET",
        path="/api/v1/emails/{id}",
        handler=api.show_email,
        tag="E-mails",
        summary="Show an e-mail with all its history",
        answer=EmailDetail,
    ),
    Route(
        method="GET",
        path="/api/v1/emails/{id}/request",
        handler=api.show_request,
        tag="E-mails",
        summary="Show the webhook of an e-mail as it came",
        answer=RequestView,
    ),
    Route(
        method="GET",
        path="/api/v1/attachments/{sha256}",
        handler=operations.list_holders,
        tag="E-mails",
        summary="List the files that have one content, whichever e-mails they came with",
        answer=HoldersPage,
    ),
    Route(
        method="POST",
        path="/api/v1/emails/{id}/retry",
        handler=api.retry_email,
        tag="E-mails",
        summary="Run a finished e-mail again; what is stored is not fetched again",
        answer=Queued,
        status=202,
        errors={409: "Its job is not finished (`not_finished`)."},
    ),
    Route(
        method="GET",
        path="/api/v1/emails/{id}/attachments/{position}/content",
        handler=api.attachment_content,
        tag="E-mails",
        summary="Download a file",
        media_type="*/*",
        elsewhere="The bytes are at the bucket's own address in `Location`, which needs no token and is good for "
        "STORAGE_SIGN_SECONDS. Only programs get it, where files are kept in a bucket.",
        errors={409: "The file is not stored, or not yet (`not_stored`)."},
    ),
    Route(
        method="GET",
        path="/api/v1/quarantine",
        handler=quarantine.list_quarantined,
        tag="Quarantine",
        summary="List requests that could not be read, newest first",
        query=QuarantineFilter,
        answer=QuarantinePage,
    ),
    Route(
        method="GET",
        path="/api/v1/quarantine/{id}",
        handler=quarantine.show_quarantined,
        tag="Quarantine",
        summary="Show a request as it came",
        answer=QuarantineDetail,
    ),
    Route(
        method="POST",
        path="/api/v1/quarantine/{id}/replay",
        handler=quarantine.replay,
        tag="Quarantine",
        summary="Make an e-mail of a request that can be read now",
        answer=Replayed,
        status=202,
        errors={409: "It still cannot be read; the `code` says why."},
    ),
    Route(
        method="GET",
        path="/api/v1/failures",
        handler=operations.list_failures,
        tag="Failures",
        summary="Group what failed by code and host, the one seen last first",
        answer=FailurePage,
    ),
    Route(
        method="POST",
        path="/api/v1/retries",
        handler=operations.start_retry,
        tag="Failures",
        summary="Run all e-mails again that match a filter; with `dry_run`, only count them",
        body=operations.BulkRetryRequest,
        answer=operations.BulkRetryReceipt,
        status=202,
        also=(200,),
    ),
    Route(
        method="GET",
        path="/api/v1/retries",
        handler=operations.list_retries,
        tag="Failures",
        summary="List the retries of many, newest first",
        answer=BulkRetryPage,
    ),
    Route(
        method="GET",
        path="/api/v1/retries/{id}",
        handler=operations.show_retry,
        tag="Failures",
        summary="Show how far a retry of many is",
        answer=BulkRetryView,
    ),
    Route(
        method="POST",
        path="/api/v1/retries/{id}/cancel",
        handler=operations.cancel_retry,
        tag="Failures",
        summary="Queue no more of a retry of many",
        answer=operations.Cancelled,
        status=202,
        errors={409: "It is over already (`not_running`)."},
    ),
    Route(
        method="GET",
        path="/api/v1/actions",
        handler=operations.list_actions,
        tag="Overview",
        summary="List what operators did, newest first",
        query=PageFilter,
        answer=ActionPage,
    ),
    Route(
        method="GET",
        path="/api/v1/checks",
        handler=operations.show_checks,
        tag="Overview",
        summary="Tell whether Postgres, Redis, storage and Zendesk's credentials do what they should",
        answer=operations.CheckPage,
    ),
    Route(
        method="GET",
        path="/api/v1/alerts",
        handler=operations.list_alerts,
        tag="Overview",
        summary="List what is the matter, and what was",
        answer=AlertPage,
    ),
    Route(
        method="GET",
        path="/api/v1/reconciliations",
        handler=reconciliations.list_reconciliations,
        tag="Overview",
        summary="List the reconciliations and verifications, newest first",
        query=PageFilter,
        answer=ReconciliationPage,
    ),
    Route(
        method="GET",
        path="/api/v1/reconciliations/{id}",
        handler=reconciliations.show_reconciliation,
        tag="Overview",
        summary="Show a reconciliation, with a page of what it found",
        query=PageFilter,
        answer=ReconciliationDetail,
    ),
    Route(
        method="GET",
        path="/api/v1/overview",
        handler=operations.show_overview,
        tag="Overview",
        summary="Tell whether all is safe, hour by hour, and which workers live",
        answer=Overview,
    ),
    Route(
        method="GET",
        path="/api/v1/stats",
        handler=api.stats,
        tag="Overview",
        summary="Count e-mails by state, and tell how long the oldest waits",
        answer=Stats,
    ),
    *OPEN,
)
