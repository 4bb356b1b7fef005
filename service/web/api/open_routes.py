"""The routes that need no token: the webhook, which is signed, and what a platform asks."""

from service.web import health, webhook
from service.web.api.answers import Health, Invocation, Readiness, Receipt
from service.web.handling.middleware import WEBHOOK_PATH
from service.web.handling.route import Route

OPEN = (
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
            401: "The signature is missing or wrong, or its time is no text that a time can be.",
            413: "The body is too large.",
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
