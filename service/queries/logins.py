"""Logins of commands: who may use the API from which machine, and until when."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field
from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.engine import connect
from service.postgres.operation_tables import Login
from service.queries.views import View

MAX_SHOWN = 200


class LoginView(View):
    """The login of a command."""

    id: int
    name: str = Field(description="Of the machine, as the command gave it")
    role: Literal["operator", "reader"]
    state: Literal["in_force", "over", "revoked"] = Field(
        description="A login that is in force ends all the same when the token of its role changes"
    )
    confirmed_by: str = Field(description="The person who confirmed it")
    confirmed_at: datetime
    used_at: datetime | None = Field(description="To the minute")
    ends_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None


class LoginPage(View):
    """The newest logins of commands, newest first."""

    logins: Sequence[LoginView]


async def list_logins(engine: AsyncEngine) -> LoginPage:
    """Return the newest logins that a person confirmed."""
    state = case(
        (Login.revoked_at.is_not(None), "revoked"), (Login.ends_at <= func.now(), "over"), else_="in_force"
    )
    named = (getattr(Login, name) for name in LoginView.model_fields if name != "state")
    query = select(*named, state.label("state")).where(Login.confirmed_at.is_not(None))
    async with connect(engine) as conn:
        rows = await conn.execute(query.order_by(Login.id.desc()).limit(MAX_SHOWN))
        return LoginPage(logins=[LoginView.model_validate(row) for row in rows])
