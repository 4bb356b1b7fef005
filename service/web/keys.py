"""What handlers find in the application."""

from aiohttp import web

from service.resources import Resources

RES = web.AppKey("res", Resources)
