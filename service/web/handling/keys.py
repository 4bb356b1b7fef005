"""What handlers find in the application and in a request."""

from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from service.resources import Resources

Role = Literal["operator", "reader"]


@dataclass(frozen=True)
class Identity:
    """Who asks: in which role, by what name (theirs to give, maybe none), and by which way."""

    role: Role
    name: str
    via: Literal["api", "basic", "dashboard"]
    session: str = ""  # the id of a browser's session

    @property
    def actor(self) -> str:
        """Who it is, for the record of what operators did."""
        return f"{self.name} ({self.via})" if self.name else f"{self.via} token"


RES = web.AppKey("res", Resources)
IDENTITY = web.RequestKey("identity", Identity)
