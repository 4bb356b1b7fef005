"""Look at Redis or Valkey: its version, whether it keeps what it was given, and whether it is full."""

from typing import Any

from service.checks.finding import Check
from service.resources import Resources

OLDEST = 5  # its scripts may ask for the time and then write
_FULL = 0.9
# Nothing would be lost but time: what was evicted is rung again by the sweep.
_POLICY = "set maxmemory-policy to noeviction: an evicted ring costs up to a minute, though never an e-mail"


async def check_redis(res: Resources) -> Check:
    info: dict[str, Any] = await res.redis.info()
    version = str(info.get("valkey_version") or info["redis_version"])
    tls = "" if res.settings.redis_dsn.startswith("rediss:") else ", without TLS"
    if tls == "" and not res.settings.redis_verify_tls:
        tls = ", with a certificate that is not checked"
    found = f"{info.get('server_name', 'redis')} {version}{tls}"
    is_good = int(version.partition(".")[0]) >= OLDEST
    return Check("redis", is_good, found, "" if is_good else f"use version {OLDEST} or newer")


async def check_eviction(res: Resources) -> Check:
    memory: dict[str, Any] = await res.redis.info("memory")
    policy, used, most = (
        str(memory["maxmemory_policy"]),
        int(memory["used_memory"]),
        int(memory["maxmemory"]),
    )
    found = f"maxmemory-policy is {policy}"
    if policy != "noeviction":
        return Check("eviction", None, found, _POLICY)
    if most and used > most * _FULL:
        found = f"{used * 100 // most} % of its memory is used"
        return Check("eviction", None, found, "give it more: while it is full, workers are rung late")
    return Check("eviction", True, found)
