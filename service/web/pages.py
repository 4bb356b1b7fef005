"""All pages, and what they load."""

from service.web import docs, sign_in, static
from service.web.dashboard.routes import DASHBOARD
from service.web.route import Page

PAGES = (
    *DASHBOARD,
    Page(method="GET", path="/openapi.json", handler=docs.openapi_json, is_open=True),
    Page(method="GET", path="/docs", handler=docs.page, is_open=True),
    Page(method="GET", path="/static/{name}", handler=static.serve, is_open=True),
    Page(method="GET", path="/sign-in", handler=sign_in.page, is_open=True),
    Page(method="POST", path="/sign-in", handler=sign_in.sign_in, is_open=True),
    Page(method="POST", path="/sign-out", handler=sign_in.sign_out, is_open=True),
)
