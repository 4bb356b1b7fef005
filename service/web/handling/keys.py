"""Keys of values in the application and in requests."""

from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from service.resources import Resources

Role = Literal["operator", "reader"]


@dataclass(frozen=True)
class Identity:
    """The authenticated caller."""

    role: Role
    name: str  # chosen by the person, may be empty
    via: Literal["api", "basic", "dashboard", "command line"]
    session: str = ""  # the id of a browser's session
    login: int = 0  # the id of a command's login

    @property
    def actor(self) -> str:
        """The caller's name in the list of operators' actions."""
        return f"{self.name} ({self.via})" if self.name else f"{self.via} token"


RES = web.AppKey("res", Resources)
IDENTITY = web.RequestKey("identity", Identity)
