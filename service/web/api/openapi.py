"""The OpenAPI 3.1 document of the routes, made of the models that validate requests and serialize answers."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from service.error_guide import advice_on
from service.web.api.examples import VALUES, example, problem_example
from service.web.auth.sessions import COOKIE
from service.web.handling.routes import Route
from service.zendesk.signature import SIGNATURE

Json = dict[str, Any]
Refs = Mapping[tuple[Any, JsonSchemaMode], Json]

_REF = "#/components/schemas/{model}"
_EXAMPLE = "#/components/examples/{}_{}"
_ABOUT = """\
All e-mails that Zendesk sent, their state and history, and their files. Send a token as `Authorization: Bearer TOKEN`,
or as the password of Basic authentication with any user name. A read token allows only `GET`. Programs can name the
person they act for in the header `X-Operator`.
"""
_SECURITY: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "API_TOKEN, or API_READ_TOKEN for reading",
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "the person's name as user, the token as password",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "of a signed-in browser; only our own pages may send `POST` with it",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": SIGNATURE,
        "description": "Zendesk's signature of the timestamp (X-Zendesk-Webhook-Signature-Timestamp) and the raw body",
    },
}
_IN_PATH: Mapping[str, Json] = {
    "id": {"schema": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}, "example": 1},
    "position": {
        "example": 0,
        "schema": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        "description": "the position of the file in the e-mail, from 0",
    },
    "number": {
        "example": 1,
        "schema": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        "description": "the id of the announcement",
    },
    "name": {
        "example": "lawsuit",
        "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"},
        "description": "the name of the hold",
    },
    "sha256": {
        "example": VALUES["sha256"],
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "description": "the SHA-256 of the file's content, in hexadecimal digits",
    },
}
_ERRORS = {
    401: "The token is missing or wrong (`unauthorized`).",
    408: "The body did not arrive in time (`body_slow`).",
    413: "The body is too large (`too_large`).",
    415: "The body is not JSON (`unsupported_media_type`), or is compressed (`unsupported_encoding`).",
    500: "Unexpected error (`internal_error`) or damaged file; see the log.",
    503: "A dependency is down or busy, such as `database_unavailable`.",
}
# What a path leads to, and the code if there is none; the first that is a part of the path counts.
_MISSING: Mapping[str, str] = {
    "/attachments/{position}": "attachment_not_found",
    "/attachments/{sha256}": "content_not_found",
    "/announcements/{number}": "request_not_found",
    "/emails/{id}/request": "request_not_found",
    "/emails/{id}": "email_not_found",
    "/quarantine/{id}": "webhook_not_found",
    "/ignored/{id}": "webhook_not_found",
    "/retries/{id}": "bulk_retry_not_found",
    "/holds/{name}": "hold_not_found",
    "/reconciliations/{id}": "reconciliation_not_found",
    "/findings/{id}": "finding_not_found",
    "/erasures/{id}": "erasure_not_found",
    "/receipts/{id}": "receipt_not_found",
    "/logins/{id}": "login_not_found",
    "/filters/{id}": "filter_not_found",
}
_HEADERS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    503: {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}},
}
_LOCATION: Json = {
    "Location": {
        "required": True,
        "schema": {"type": "string", "format": "uri"},
        "description": "keep it secret: it gives access to the file",
    }
}
_MERGED: Json = {
    "description": "The e-mail turned out to be another one, and became part of it.",
    "headers": {
        "Location": {
            "required": True,
            "schema": {"type": "string"},
            "description": "the same path of that e-mail",
        }
    },
}


class Problem(BaseModel):
    """The answer of every error (RFC 9457); some have further fields."""

    model_config = ConfigDict(extra="allow")

    type: Literal["about:blank"]
    title: str
    status: int
    code: str = Field(pattern="^[a-z_]+$", description="a stable word to tell errors apart")
    detail: str = Field(description="an explanation for people")


class _Schema(GenerateJsonSchema):
    """Pydantic's JSON schema without titles of fields: they would repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 pydantic's signature
        return False


def document(routes: Sequence[Route], version: str, prefix: str = "") -> Json:
    """Describe the routes, as they are served below a path prefix."""
    shapes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Problem, "serialization")]
    for route in routes:
        shapes += [(route.answer, "serialization")] if route.answer else []
        shapes += [(route.body, "validation")] if route.body else []
    shapes = list(dict.fromkeys(shapes))
    found, schemas = models_json_schema(shapes, ref_template=_REF, schema_generator=_Schema)
    refs: Refs = dict(found)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs, prefix)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "security": [{"bearer": []}, {"basic": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "examples": _problems(routes),
            "securitySchemes": _SECURITY,
        },
    }


def _problems(routes: Sequence[Route]) -> Json:
    """Return an example of each status and code that an error can have."""
    found = {
        (status, code)
        for route in routes
        for status, when in _errors(route).items()
        for code in _codes_in(when)
    }
    return {f"{status}_{code}": {"value": problem_example(status, code)} for status, code in sorted(found)}


def _operation(route: Route, refs: Refs, prefix: str) -> Json:
    operation: Json = {
        "operationId": getattr(route.handler, "__name__", route.path),
        "tags": [route.tag],
        "summary": route.summary,
        "parameters": [*_in_path(route.path), *_in_query(route.query)],
        "responses": {
            str(status): {
                "description": inspect.getdoc(route.answer) if route.answer else "OK",
                "content": _content(route, refs, status, prefix),
            }
            for status in (route.status, *route.also)
        },
    }
    if route.elsewhere:
        operation["responses"]["302"] = {"description": route.elsewhere, "headers": _LOCATION}
    if "/emails/{id}" in route.path:
        operation["responses"]["308"] = _MERGED
    for status, when in sorted(_errors(route).items()):
        operation["responses"][str(status)] = {
            "description": when,
            "content": {
                "application/problem+json": {
                    "schema": refs[Problem, "serialization"],
                    "examples": {code: {"$ref": _EXAMPLE.format(status, code)} for code in _codes_in(when)},
                }
            },
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
    if route.body:
        schema = refs[route.body, "validation"]
        content = {"application/json": {"schema": schema, "example": example(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.is_open:
        operation["security"] = [{"signature": []}] if route.is_signed else []
    return operation


def _content(route: Route, refs: Refs, status: int, prefix: str) -> Json:
    """Describe the body of an answer; files have any type, but generators of clients need one."""
    if route.answer:
        schema = refs[route.answer, "serialization"]
        return {route.media_type: {"schema": schema, "example": example(route.answer, status, prefix)}}
    if route.media_type.startswith("text/"):
        return {route.media_type: {"schema": {"type": "string"}, "example": route.example}}
    if route.media_type == "application/json":  # of another system
        return {route.media_type: {"schema": {"type": "object"}, "example": json.loads(route.example)}}
    bytes_of_file = {"schema": {"type": "string", "format": "binary"}}
    return {route.media_type: bytes_of_file, "application/octet-stream": bytes_of_file}


def _errors(route: Route) -> dict[int, str]:
    """Return the possible errors by status: the common ones, and the route's own."""
    found = {500} if not route.is_signed and (route.answer or not route.is_open) else set()
    found |= set() if route.is_open else {401, 503}
    found |= {413} | (set() if route.is_signed else {408, 415}) if route.body else set()
    own = {403: _forbidden(route), 404: _missing(route), 400: _wrong(route)}
    common = {status: _ERRORS[status] for status in found - {*route.also}}
    return common | {status: when for status, when in own.items() if when} | dict(route.errors)


def _forbidden(route: Route) -> str:
    """Tell who may not send the request, if it needs a token."""
    if route.is_open:
        return ""
    acts = route.method != "GET"
    words = ["The token is for reading (`read_only`)"] if acts and not route.is_for_readers else []
    words += ["another site sent the request (`foreign_origin`)"] if acts else []
    text = ", or ".join([*words, "no token is set (`api_closed`)"])
    return f"{text[0].upper()}{text[1:]}."


def _missing(route: Route) -> str:
    """Tell what is not found, if the path names something."""
    code = next((code for part, code in _MISSING.items() if part in route.path), "not_found")
    return f"Not found (`{code}`)." if "{" in route.path else ""


def _wrong(route: Route) -> str:
    """Tell which part of the request may be wrong, if it has one."""
    has_cursor = route.query is not None and "cursor" in route.query.model_fields
    words = ["A parameter is wrong (`bad_parameter`); `detail` names it."] if route.query else []
    words += ["The cursor is of no page (`bad_cursor`)."] if has_cursor else []
    words += ["A field of the body is wrong (`bad_body`); `detail` names it."] if route.body else []
    return " ".join(words)


def _codes_in(text: str) -> Sequence[str]:
    return [word for word in re.findall("`([a-z_]+)`", text) if advice_on(word)]


def _in_path(path: str) -> list[Json]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, **_IN_PATH[name]} for name in names]


def _in_query(model: type[BaseModel] | None) -> list[Json]:
    if model is None:
        return []
    schema = model.model_json_schema(schema_generator=_Schema)
    if "$defs" in schema:
        raise TypeError(f"{model.__name__} holds another model, which no query string can")
    needed = schema.get("required", [])
    return [_parameter(name, about, name in needed) for name, about in schema["properties"].items()]


def _parameter(name: str, about: Json, is_needed: bool) -> Json:  # noqa: FBT001 a fact of JSON schema
    """Describe a query parameter; drop null: it only stands for a missing one."""
    one_of = [kind for kind in about.pop("anyOf", []) if kind != {"type": "null"}]
    schema = {**about, **(one_of[0] if len(one_of) == 1 else {"anyOf": one_of} if one_of else {})}
    if schema.get("default", ...) is None:
        del schema["default"]
    described = {"description": schema.pop("description")} if "description" in schema else {}
    return {"name": name, "in": "query", "required": is_needed, **described, "schema": schema}
