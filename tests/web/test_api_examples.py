"""The examples in the description of the API are true: the schemas allow them, and the codes exist."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema_rs
import pytest
from aiohttp import web
from pydantic import BaseModel

from service.error_guide import advice_on
from service.queries.views import View
from service.queries.webhook_views import QuarantineDetail
from service.web.api import docs, examples
from service.web.api.docs import API
from service.web.api.openapi import document
from service.web.handling.routes import Routes
from service.zendesk.body import Unreadable, read_json

# Models as the routes name them, and the statuses of their answers.
MODELS = [
    *((route.body, 0) for route in API if route.body),
    *((route.answer, status) for route in API if route.answer for status in (route.status, *route.also)),
]


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docs._text())
    return found


def contents(openapi: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each described body, with its place."""
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            bodies = {"body": about["requestBody"]} if "requestBody" in about else {}
            for status, answer in {**bodies, **about["responses"]}.items():
                for media_type, content in answer.get("content", {}).items():
                    yield f"{method} {path} {status} {media_type}", content


def examples_in(openapi: dict[str, Any], content: dict[str, Any]) -> Sequence[object]:
    shared = openapi["components"]["examples"]
    named = [
        shared[each["$ref"].rpartition("/")[2]]["value"] for each in content.get("examples", {}).values()
    ]
    return [*named, content["example"]] if "example" in content else named


def test_every_body_but_files_has_examples_that_its_schema_allows(openapi: dict[str, Any]) -> None:
    for place, content in contents(openapi):
        found = examples_in(openapi, content)
        assert found or content["schema"]["format"] == "binary", place
        for example in found:
            jsonschema_rs.validate({"components": openapi["components"], **content["schema"]}, example)


def test_schemas_refuse_an_example_that_lacks_a_field_or_has_a_wrong_one(openapi: dict[str, Any]) -> None:
    schema = {"components": openapi["components"], "$ref": "#/components/schemas/EmailDetail"}
    right = examples_in(openapi, dict(contents(openapi))["get /api/v1/emails/{id} 200 application/json"])[0]
    assert isinstance(right, dict)

    for wrong in (
        {**right, "id": "one"},
        {name: value for name, value in right.items() if name != "subject"},
    ):
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(schema, wrong)


def test_every_error_has_an_example_with_its_status_and_a_code_of_the_guide(openapi: dict[str, Any]) -> None:
    for place, content in contents(openapi):
        if "problem+json" in place:
            for problem in examples_in(openapi, content):
                assert isinstance(problem, dict)
                assert str(problem["status"]) == place.split()[2]
                assert problem["detail"]
                assert advice_on(problem["code"])


@pytest.mark.parametrize(("model", "status"), MODELS, ids=str)
def test_no_text_of_an_example_is_empty(model: type[BaseModel], status: int) -> None:
    """A new text needs an example: add it to `VALUES`."""
    empty = {place for place, text in texts(examples.example(model, status)) if not text}

    assert empty <= {"after", "advice"}


def test_no_value_is_left_of_a_field_that_is_gone() -> None:
    fields = {f"{each.__name__}.{name}" for each in subclasses(BaseModel) for name in each.model_fields}

    assert {key for key in examples.VALUES if "." in key} <= fields
    assert {key for key in examples.VALUES if "." not in key} <= {field.partition(".")[2] for field in fields}


def test_a_field_that_is_added_to_a_model_is_in_its_example() -> None:
    class Wish(View):
        """A wish."""

        subject: str
        granted: bool
        others: Sequence[str] = ()

    routes = Routes("Wishes")

    @routes.get("/api/v1/wishes", answer=Wish)
    async def list_wishes(_: web.Request) -> web.Response:
        return web.Response()

    operation = document(routes, "1")["paths"]["/api/v1/wishes"]["get"]
    assert operation["responses"]["200"]["content"]["application/json"]["example"] == {
        "subject": "Contract V-4711",
        "granted": False,
        "others": [],
    }


def test_webhook_in_quarantine_has_the_error_of_its_body() -> None:
    shown = examples.example(QuarantineDetail)

    with pytest.raises(Unreadable, match="not JSON") as raised:
        read_json(shown["body"].encode())
    assert (shown["error_code"], shown["error"]) == (raised.value.code, raised.value.message)


def texts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text with the name of its field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, name)
    elif isinstance(value, str):
        yield name, value


def subclasses(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)
