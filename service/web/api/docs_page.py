"""The API's description for its page: operations by subject, and schemas as rows of tables."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_LENGTHS = {"minLength": "at least", "maxLength": "at most"}
_HUGE = 10**9  # limits beyond it are not shown


@dataclass(frozen=True)
class FieldRow:
    """A parameter, or a field of a schema; `shapes` names the schemas in its type."""

    name: str
    kind: str
    about: str
    is_needed: bool
    shapes: Sequence[str]


@dataclass(frozen=True)
class Parameter(FieldRow):
    """A parameter, with what a form to try it needs."""

    example: str  # of a parameter in the path
    choices: Sequence[str]  # its only values, if there are few


@dataclass(frozen=True)
class ResponseRow:
    """A possible answer; `codes` names the examples of an error."""

    status: str
    when: str
    media_type: str
    shapes: Sequence[str]
    codes: Sequence[str]
    example: str


@dataclass(frozen=True)
class ProblemRow:
    """An example of an error."""

    status: str
    code: str
    example: str


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    id: str
    method: str
    path: str
    summary: str
    title: str  # the summary up to its first comma
    access: str
    parameters: Sequence[Parameter]
    body: Sequence[str] | None
    body_example: str
    answers: Sequence[ResponseRow]
    curl: str


@dataclass(frozen=True)
class Shape:
    """The schema of a body or an answer."""

    name: str
    about: str
    rows: Sequence[FieldRow]
    is_sent: bool  # by clients: then required fields are marked


def operations(document: Json, public_url: str) -> Mapping[str, Sequence[Operation]]:
    """Return the operations of each subject, with examples for this address of the service."""
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            found[about["tags"][0]].append(_operation(method.upper(), path, about, public_url))
    return found


def shapes(document: Json) -> Sequence[Shape]:
    """Return all schemas, sorted by name."""
    bodies = [
        about.get("requestBody") for methods in document["paths"].values() for about in methods.values()
    ]
    sent = _shapes_in(bodies)
    schemas = sorted(document["components"]["schemas"].items())
    return [_shape(name, schema, is_sent=name in sent) for name, schema in schemas]


def problems(document: Json) -> Sequence[ProblemRow]:
    """Return an example of each error, sorted by status."""
    values = [about["value"] for about in document["components"]["examples"].values()]
    return [ProblemRow(str(value["status"]), value["code"], _written(value)) for value in values]


def _operation(method: str, path: str, about: Json, public_url: str) -> Operation:
    body = about["requestBody"]["content"]["application/json"] if "requestBody" in about else None
    schemes = [name for scheme in about.get("security", [{"bearer": []}]) for name in scheme]
    is_for_all = "403_read_only" not in json.dumps(about["responses"])
    access = {"bearer": "operators and readers" if is_for_all else "operators", "signature": "Zendesk"}
    return Operation(
        id=about["operationId"],
        method=method,
        path=path,
        summary=about["summary"],
        title=re.split("[,;]", about["summary"])[0],
        access=access[schemes[0]] if schemes else "everybody",
        parameters=[_parameter(each) for each in about["parameters"]],
        body=None if body is None else _shapes_in(body["schema"]),
        body_example="" if body is None else _written(body["example"]),
        answers=[
            ResponseRow(
                status,
                answer["description"],
                media_type,
                _shapes_in(content.get("schema", {})),
                [*content.get("examples", {})],
                _written(content["example"]) if "example" in content else "",
            )
            for status, answer in sorted(about["responses"].items())
            for media_type, content in answer.get("content", {"": {}}).items()
        ],
        curl=_curl(
            method,
            public_url + _filled(path, about["parameters"]),
            has_body=body is not None,
            needs_token="bearer" in schemes,
        ),
    )


def _shape(name: str, schema: Json, *, is_sent: bool) -> Shape:
    needed = schema.get("required", [])
    fields = schema.get("properties", {}).items()
    if not is_sent:  # an answer always has all fields: defaults mean nothing
        fields = [(field, {k: v for k, v in about.items() if k != "default"}) for field, about in fields]
    rows = [_row(field, about, field in needed) for field, about in fields]
    return Shape(name, schema.get("description", ""), rows, is_sent)


def _row(name: str, schema: Json, is_needed: bool) -> FieldRow:  # noqa: FBT001 a fact about the field, as in JSON schema
    about = [schema.get("description", ""), _limits(schema)]
    return FieldRow(name, _kind(schema), "; ".join(filter(None, about)), is_needed, _shapes_in(schema))


def _parameter(about: Json) -> Parameter:
    schema = about["schema"]
    choices = schema.get("enum", ["true", "false"] if schema.get("type") == "boolean" else [])
    row = _row(about["name"], schema | _described(about), about["required"])
    return Parameter(**vars(row), example=str(about.get("example", "")), choices=choices)


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _described(about: Json) -> Json:
    return {"description": about["description"]} if "description" in about else {}


def _kind(schema: Json) -> str:
    """Describe a type in one line."""
    match schema:
        case {"$ref": ref}:
            kind = _name(ref)
        case {"anyOf": [*kinds]}:
            kind = " or ".join(map(_kind, kinds))
        case {"enum": [*words]}:
            kind = " | ".join(words)
        case {"const": word}:
            kind = str(word)
        case {"type": "array"}:
            kind = f"list of {_kind(schema.get('items', {}))}"
        case {"type": "object", "additionalProperties": {}}:
            kind = f"map to {_kind(schema['additionalProperties'])}"
        case {"format": "date-time"}:
            kind = "time"
        case _:
            kind = str(schema.get("type", "anything"))
    return kind


def _limits(schema: Json) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    words = []
    if most is not None and most < _HUGE:
        words.append(f"{least} to {most}" if least is not None else f"at most {most}")
    elif least:
        words.append(f"at least {least}")
    words += [f"{word} {schema[name]} characters" for name, word in _LENGTHS.items() if name in schema]
    if schema.get("default") is not None:
        words.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(words)


def _shapes_in(schema: object) -> Sequence[str]:
    if isinstance(schema, dict):
        inner = [name for value in schema.values() for name in _shapes_in(value)]
        return [_name(schema["$ref"]), *inner] if "$ref" in schema else inner
    return [name for part in schema for name in _shapes_in(part)] if isinstance(schema, list) else []


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


def _filled(path: str, parameters: Sequence[Json]) -> str:
    for about in parameters:
        path = path.replace(f"{{{about['name']}}}", str(about.get("example", about["name"].upper())))
    return path


def _curl(method: str, address: str, *, has_body: bool, needs_token: bool) -> str:
    words = ["curl"]
    words += ["-X", method] if method != "GET" else []
    words += ['-H "Authorization: Bearer $API_TOKEN"'] if needs_token else []
    words += ["-H 'Content-Type: application/json' -d @body.json"] if has_body else []
    return " ".join([*words, address])
