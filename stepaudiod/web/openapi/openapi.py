"""The document itself: OpenAPI 3.1, from the routes of an application, their entries and the settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from starlette.routing import BaseRoute, Route

from stepaudiod import __version__
from stepaudiod.config import Settings
from stepaudiod.web.errors import error_body
from stepaudiod.web.openapi.answers import Error
from stepaudiod.web.openapi.failures import Failure, failures_of, headers_of
from stepaudiod.web.openapi.operations import OPERATIONS
from stepaudiod.web.openapi.parts import HEADERS, JSON, Answer, Body, Content, Operation, Parameter
from stepaudiod.web.request_id import REQUEST_ID

Table = dict[str, Any]

REF = "#/components/schemas/"
ABOUT = """Speech that isn't running until you connect: the first connection starts the daemon, and after a
quiet while it exits and gives back every byte of memory. Requests have OpenAI's form where OpenAI has one.

A key is needed where `access.auth` says so, as a bearer token; never over the unix socket, nor for /healthz.

A field that a request's schema doesn't have is ignored, and `X-StepAudio-Ignored` names it. Null is the same
as absent, and so is an empty field of a form.

Every error has the form of the schema `Error`. A path that isn't here is answered 404 (`not_found`), another
method 405 (`method_not_allowed`) with `Allow`. `HEAD` goes wherever `GET` does.
"""


def build(routes: Sequence[BaseRoute], settings: Settings) -> Table:
    """The document of an application.

    Args:
        routes: what it serves.
        settings: for the limits that are configured.

    Raises:
        KeyError: a route has no entry in `OPERATIONS`.
    """
    entries = _entries(routes)
    schemas = _schemas([entry for _, _, entry in entries])
    paths: Table = {}
    for path, method, entry in entries:
        paths.setdefault(path, {})[method.lower()] = _operation(entry, schemas, settings)
    unused = {entry.body.form.__name__ for _, _, entry in entries if entry.body and entry.body.files}
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "stepaudiod",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],  # relative to the document: a proxy may put a prefix before it
        "security": [{}, {"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(entry.tag for _, _, entry in entries)],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name not in unused},
            "responses": {
                _name(status, all): _error(status, all)
                for _, _, entry in entries
                for status, all in failures_of(entry.errors).items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": {name: _header(name) for name in HEADERS},
        },
    }
    configured: Table = _configured(document, settings)
    return configured


def dump(document: Table) -> bytes:
    """As it is sent."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _entries(routes: Sequence[BaseRoute]) -> list[tuple[str, str, Operation]]:
    """Path, method and entry of every route; `HEAD` is `GET`'s."""
    return [
        (route.path, method, OPERATIONS[method, route.path])
        for route in routes
        if isinstance(route, Route) and route.include_in_schema
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


class _Plain(GenerateJsonSchema):
    """Without a title at each field, which would only say its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def _schemas(entries: list[Operation]) -> Table:
    """Every schema that these entries name."""
    bodies = [entry.body for entry in entries if entry.body]
    requests = {form for body in bodies for form in (body.form, body.other) if form}
    contents = [c for entry in entries for answer in entry.answers.values() for c in answer.contents.values()]
    answers: set[type[BaseModel]] = {Error, *(e for c in contents for e in c.events)}
    answers |= {c.schema for c in contents if c.schema is not None}
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in (*requests, *answers)]
    wanted.sort(key=lambda pair: pair[0].__name__)
    _, table = models_json_schema(wanted, ref_template=REF + "{model}", schema_generator=_Plain)
    schemas: Table = table["$defs"]
    for schema in schemas.values():
        schema.pop("title", None)
    return schemas


def _operation(entry: Operation, schemas: Table, settings: Settings) -> Table:
    """One operation."""
    table: Table = {"operationId": entry.id, "tags": [entry.tag], "summary": entry.summary}
    if entry.description:
        table["description"] = entry.description
    request_id = Parameter(
        "X-Request-Id",
        "header",
        "your name for the request",
        "my-request-1",
        f"^{REQUEST_ID.pattern.decode()}$",
    )
    table["parameters"] = [_parameter(p) for p in (*entry.parameters, request_id)]
    if entry.body:
        table["requestBody"] = _body(entry.body, schemas, settings)
    responses = {str(status): _answer(answer) for status, answer in entry.answers.items()}
    failures = failures_of(entry.errors)
    refs = {
        str(status): {"$ref": f"#/components/responses/{_name(status, all)}"}
        for status, all in failures.items()
    }
    table["responses"] = dict(sorted((refs | responses).items()))
    return table


def _name(status: int, failures: list[Failure]) -> str:
    """What a response that several operations share is called."""
    return "-".join([str(status), *(failure.code or "not_http" for failure in failures)])


def _parameter(parameter: Parameter) -> Table:
    schema: Table = {"type": "string"}
    if parameter.pattern:
        schema["pattern"] = parameter.pattern
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": schema,
        "example": parameter.example,
    }


def _body(body: Body, schemas: Table, settings: Settings) -> Table:
    """JSON, or a multipart form with files."""
    name = body.form.__name__
    if not body.files:
        schema: Table = {"$ref": REF + name}
        if body.other:
            schema = {"anyOf": [schema, {"$ref": REF + body.other.__name__}]}
        return {
            "required": True,
            "content": {JSON: {"schema": schema, "example": body.example}},
            "description": f"At most {settings.limits.max_body} bytes (limits.max_body).",
        }
    form: Table = schemas[name]
    fields = {}
    for field, table in form["properties"].items():
        of_form = _of_form(table)
        if field in body.example:
            of_form["examples"] = [body.example[field]]
        fields[f"{field}[]" if of_form.get("type") == "array" else field] = of_form
    files = {
        field: {"type": "string", "format": "binary", "description": text}
        for field, text in body.files.items()
    }
    required = [*(f for f in body.files if f not in body.optional_files), *form.get("required", [])]
    schema = form | {"properties": files | fields, "required": required}
    return {
        "required": True,
        "content": {"multipart/form-data": {"schema": schema}},
        "description": f"At most {settings.limits.max_upload} bytes (limits.max_upload).",
    }


def _of_form(schema: Table) -> Table:
    """A field of a form: it is there or it isn't, and there is no null."""
    schema = {key: value for key, value in schema.items() if key != "default" or value is not None}
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    only: Table = choices[0]
    return {key: value for key, value in schema.items() if key != "anyOf"} | only


def _answer(answer: Answer) -> Table:
    """One status of success."""
    table: Table = {"description": answer.description, "headers": _headers(answer.headers)}
    if answer.links:
        table["links"] = {
            id: {"operationId": id, "parameters": {name: f"$response.body#/{name}"}}
            for id, name in answer.links.items()
        }
    if answer.contents:
        table["content"] = {kind: _content(content, kind) for kind, content in answer.contents.items()}
    return table


def _content(content: Content, media_type: str) -> Table:
    """One form of an answer."""
    table: Table = {"schema": {"type": "string"}}
    if content.schema is not None:
        table["schema"] = {"$ref": REF + content.schema.__name__}
    elif media_type == JSON:
        table["schema"] = {"type": "object"}
    elif not media_type.startswith("text/"):
        table["schema"]["format"] = "binary"
    if content.events:
        table["schema"] = _event(content.events)
    if content.example is not None:
        table["example"] = content.example
    return table


def _event(events: Sequence[type[BaseModel]]) -> Table:
    """Server-sent events: the schema of each, where tools look for it (OpenAPI 3.2 has a place for it)."""
    schemas = [{"$ref": REF + event.__name__} for event in events]
    return {
        "type": "object",
        "description": "Server-sent events, each a line `data: ` with JSON and an empty line after it. "
        "`Error` comes where the work fails on the way.",
        "properties": {
            "data": {
                "type": "string",
                "contentMediaType": JSON,
                "contentSchema": {"anyOf": schemas},
            }
        },
        "required": ["data"],
    }


def _headers(names: Sequence[str]) -> Table:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def _header(name: str) -> Table:
    schema = {"type": "integer", "minimum": 0} if name == "Retry-After" else {"type": "string"}
    return {"description": HEADERS[name], "schema": schema}


def _error(status: int, failures: list[Failure]) -> Table:
    """One status of failure: which codes it may have, and what each says."""
    codes = [failure.code for failure in failures]
    schema: Table = {
        "allOf": [
            {"$ref": f"{REF}Error"},
            {"properties": {"error": {"properties": {"code": {"enum": codes}}}}},
        ]
    }
    examples = {
        failure.code or "not_http": {
            "summary": failure.when,
            "value": json.loads(error_body(failure.message, status, failure.code, failure.param)),
        }
        for failure in failures
    }
    return {
        "description": "; or ".join(failure.when for failure in failures),
        "headers": _headers(headers_of(status)),
        "content": {JSON: {"schema": schema, "examples": examples}},
    }


def _configured(node: Any, settings: Settings) -> Any:
    """Put configured limits where they are named: `x-setting` becomes `maxLength`, `{limits.…}` a number."""
    if isinstance(node, dict):
        table = {key: _configured(value, settings) for key, value in node.items() if key != "x-setting"}
        if setting := node.get("x-setting"):
            limit = _value(settings, setting)
            for schema in [each for each in table.get("anyOf", [table]) if each.get("type") == "string"]:
                schema["maxLength"] = limit
            table["description"] = f"{table['description']}; at most {limit} characters ({setting})"
        return table
    if isinstance(node, list):
        return [_configured(each, settings) for each in node]
    if isinstance(node, str) and "{limits." in node:
        return node.format(limits=settings.limits)
    return node


def _value(settings: Settings, setting: str) -> Any:
    """The setting of that key path."""
    value: Any = settings
    for name in setting.split("."):
        value = getattr(value, name)
    return value
