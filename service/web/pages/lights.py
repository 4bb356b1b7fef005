"""What Holdfast stands on, as lights: on, off, or not known yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.checks.zendesk import check_zendesk
from service.resources import Resources
from service.web.health import PROBE_SECONDS, probe_all

SECONDS = 10.0
ZENDESK_SECONDS = 300.0  # it counts requests

_ADVICE = {
    "database": "Webhooks are answered with 503, and Zendesk sends them again. Check DATABASE_URL, and that Postgres runs.",
    "redis": "E-mails are taken in and worked on all the same, a little later. Check REDIS_URL, and that Redis runs.",
    "storage": "E-mails are taken in, their files wait. Check STORAGE_URL, its credentials and their rights.",
}
_TARGET = "E-mails are taken in and worked on all the same; finished ones wait for it. Check SYNC_URL, and that it runs."
NAMES = {"database": "Postgres", "redis": "Redis", "storage": "Storage"}
_TARGETS = {"mongodb": "Sync to MongoDB", "webhook": "Sync to a webhook"}


@dataclass(frozen=True)
class Light:
    """A thing; `ok` is None where it works but not as it should, or nobody knows."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


async def look(res: Resources) -> Sequence[Light]:
    """Look at what must answer within moments."""
    probes = await probe_all(res, PROBE_SECONDS)
    untried = [target.name for target in res.targets if not target.can_be_tried]
    return [
        *(
            Light(
                _name(name),
                None if "detail" in probe else True,
                f"{probe['milliseconds']} ms",
                str(probe.get("detail", "")),
            )
            if probe["ok"]
            else Light(
                _name(name),
                False,
                str(probe["error"]),
                str(probe.get("detail") or _ADVICE.get(name, _TARGET)),
            )
            for name, probe in probes.items()
        ),
        *(
            Light(_name(name), None, "not tried: what is posted to find out would stay there")
            for name in untried
        ),
    ]


def names(res: Resources) -> Sequence[str]:
    """Name what `look` looks at."""
    return [*NAMES.values(), *(_name(target.name) for target in res.targets)]


async def look_at_zendesk(res: Resources) -> Light:
    """Try the credentials."""
    check = await check_zendesk(res)
    return Light("Zendesk", check.ok, check.found, check.advice)


def _name(probed: str) -> str:
    return {**NAMES, **_TARGETS}[probed]
