"""All routes of the API, in the order in which they are described: a row is all that a new one needs."""

from service.queries.emails import EmailFilter
from service.queries.overview import Stats
from service.queries.quarantine import QuarantineFilter
from service.queries.views import EmailDetail, EmailPage, QuarantineDetail, QuarantinePage
from service.web import api, health, quarantine, webhook
from service.web.answers import Health, Invocation, Queued, Readiness, Receipt, Replayed
from service.web.middleware import WEBHOOK_PATH
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
        errors={422: "It still cannot be read; the `code` says why."},
    ),
    Route(
        method="GET",
        path="/api/v1/stats",
        handler=api.stats,
        tag="Overview",
        summary="Count e-mails by state, and tell how long the oldest waits",
        answer=Stats,
    ),
    Route(
        method="POST",
        path=WEBHOOK_PATH,
        handler=webhook.receive,
        is_open=True,
        is_signed=True,
        tag="Webhook",
        summary="Take in a webhook of Zendesk's",
        body=Invocation,
        answer=Receipt,
        errors={
            401: "The signature is missing, wrong or too old.",
            503: "It could not be committed: send it again.",
        },
    ),
    Route(
        method="GET",
        path="/healthz",
        handler=health.healthz,
        is_open=True,
        tag="Health",
        summary="Tell that the process is alive",
        answer=Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=health.readyz,
        is_open=True,
        tag="Health",
        summary="Tell whether the process can work, and name what is away",
        answer=Readiness,
        also=(503,),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=health.metrics,
        is_open=True,
        tag="Health",
        summary="Tell how many of what, in Prometheus' text format",
        media_type="text/plain",
    ),
)
