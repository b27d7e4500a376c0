"""The document itself: OpenAPI 3.1, from an application's endpoints and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from starlette.routing import BaseRoute

from stepaudiod import __version__
from stepaudiod.config import Settings
from stepaudiod.web.endpoint import EVENTS, JSON, Answer, Endpoint, Parameter
from stepaudiod.web.openapi import answers, responses
from stepaudiod.web.openapi.responses import Table
from stepaudiod.web.request_id import REQUEST_ID
from stepaudiod.web.schemas import Form

REF = "#/components/schemas/"
ABOUT = """Text to speech, edits of recordings, and transcriptions. The daemon starts with the first
connection and exits when it has been idle for a while. Requests have OpenAI's form where OpenAI has one.

A key is needed where `access.auth` requires one, as a bearer token; never over the unix socket, nor for
/healthz.

A field that a request's schema does not have is ignored, and `X-StepAudio-Ignored` names it. Null is the same
as absent, and so is an empty field of a form.

Every error has the form of the schema `Error`. An unknown path is answered with 404 (`not_found`), another
method with 405 (`method_not_allowed`) and `Allow`. `HEAD` works wherever `GET` does.
"""
RECORDING = (
    "a recording: wav, mp3, flac, ogg, opus, m4a, webm and similar. At most {limits.max_upload} bytes with "
    "all other fields of the request (limits.max_upload), {limits.max_audio} seconds (limits.max_audio), "
    "{limits.max_channels} channels (limits.max_channels), {limits.max_sample_rate} samples a second "
    "(limits.max_sample_rate)"
)
REQUEST_ID_HEADER = Parameter(
    "X-Request-Id", "header", "an id for the request", "my-request-1", f"^{REQUEST_ID.pattern.decode()}$"
)


def build(routes: Sequence[BaseRoute], settings: Settings) -> Table:
    """The document of the endpoints among an application's routes, with the configured limits."""
    endpoints = [route for route in routes if isinstance(route, Endpoint)]
    declarations = [each.declaration for each in endpoints]
    schemas = _schemas(endpoints)
    paths: Table = {}
    for each in endpoints:
        path = each.path.replace(":path}", "}")
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, schemas)
    statuses = sorted({status for each in declarations for status in responses.statuses(each.errors)})
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "stepaudiod",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],  # relative to the document: a proxy may add a path prefix
        "security": [{}, {"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in declarations)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {responses.error_name(status): responses.error(status) for status in statuses},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": {name: responses.header(name) for name in responses.HEADERS},
        },
    }
    configured: Table = _configured(document, settings)
    return configured


class _Plain(GenerateJsonSchema):
    """Leaves out the title of each field, which only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas(endpoints: list[Endpoint]) -> Table:
    forms = {form for each in endpoints for form in each.declaration.body}
    names = {
        name
        for each in endpoints
        for answer in each.answers.values()
        for schemas in answer.contents.values()
        for name in schemas
    }
    models: list[type[BaseModel]] = [*forms, *(getattr(answers, name) for name in names | {"Error"})]
    models.sort(key=lambda model: model.__name__)
    _, table = models_json_schema(
        [(model, "validation") for model in models], ref_template=REF + "{model}", schema_generator=_Plain
    )
    schemas: Table = table["$defs"]
    for schema in schemas.values():
        schema.pop("title", None)
    return schemas | {form.__name__: _multipart(form, schemas[form.__name__]) for form in forms if form.files}


def _multipart(form: type[Form], schema: Table) -> Table:
    """A form's schema with its files. A multipart field is present or absent: there is no null."""
    file = {"type": "string", "format": "binary", "description": RECORDING}
    properties: Table = dict.fromkeys(form.files, file)
    for name, field in schema["properties"].items():
        field = {key: value for key, value in field.items() if key != "default" or value is not None}
        choices = [choice for choice in field.get("anyOf", []) if choice != {"type": "null"}]
        if len(choices) == 1:
            del field["anyOf"]
            field |= choices[0]
        properties[f"{name}[]" if field.get("type") == "array" else name] = field
    files = [name for name, is_required in form.files.items() if is_required]
    return schema | {"properties": properties, "required": files + schema.get("required", [])}


def _operation(endpoint: Endpoint, schemas: Table) -> Table:
    declaration = endpoint.declaration
    summary, _, description = (inspect.getdoc(endpoint.endpoint) or "").partition("\n\n")
    table: Table = {
        "operationId": declaration.id,
        "tags": [declaration.tag],
        "summary": summary.removesuffix("."),
        "parameters": [_parameter(each) for each in (*declaration.parameters, REQUEST_ID_HEADER)],
    }
    if description:
        table["description"] = description
    if declaration.body:
        table["requestBody"] = _body(declaration.body, schemas)
    found = {
        status: {"$ref": f"#/components/responses/{responses.error_name(status)}"}
        for status in responses.statuses(declaration.errors)
    }
    found |= {status: _answer(answer, schemas) for status, answer in endpoint.answers.items()}
    table["responses"] = {str(status): found[status] for status in sorted(found)}
    return table


def _parameter(parameter: Parameter) -> Table:
    pattern = {"pattern": parameter.pattern} if parameter.pattern else {}
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": {"type": "string", **pattern},
        "example": parameter.example,
    }


def _body(forms: tuple[type[Form], ...], schemas: Table) -> Table:
    contents: Table = {}
    for media_type, has_files in ((JSON, False), ("multipart/form-data", True)):
        if of_type := [form for form in forms if bool(form.files) is has_files]:
            content = contents[media_type] = {"schema": _any_of([form.__name__ for form in of_type])}
            if not has_files:
                fields = schemas[of_type[0].__name__]["properties"]
                content["example"] = {
                    name: field["examples"][0] for name, field in fields.items() if "examples" in field
                }
    setting = "max_upload" if forms[0].files else "max_body"
    return {
        "required": True,
        "content": contents,
        "description": f"At most {{limits.{setting}}} bytes (limits.{setting}).",
    }


def _answer(answer: Answer, schemas: Table) -> Table:
    described = answer.description or " ".join(
        schemas[name]["description"] for names in answer.contents.values() for name in names
    )
    table: Table = {"description": described, "headers": responses.headers(answer.headers)}
    if answer.links:
        table["links"] = {
            id: {"operationId": id, "parameters": {"id": "$response.body#/id"}} for id in answer.links
        }
    if answer.contents:
        table["content"] = {
            kind: {"schema": _content(kind, names)} for kind, names in answer.contents.items()
        }
    return table


def _content(media_type: str, names: tuple[str, ...]) -> Table:
    if media_type == EVENTS:
        return _events(names)
    if names:
        return _any_of(names)
    if media_type == JSON:
        return {"type": "object"}
    return {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}


def _any_of(names: Sequence[str]) -> Table:
    schemas = [{"$ref": REF + name} for name in names]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _events(names: tuple[str, ...]) -> Table:
    """Server-sent events: the schema of each, where tools look for it (OpenAPI 3.2 has a place for it)."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": _any_of(names)}
    return {
        "type": "object",
        "description": "Server-sent events, each a line `data: ` with JSON and an empty line after it. "
        "`Error` is sent where the work fails after the first event.",
        "properties": {"data": data},
        "required": ["data"],
    }


def _configured(node: Any, settings: Settings) -> Any:
    """Insert the configured limits: `x-setting` becomes `maxLength`, and `{limits.…}` a number."""
    if isinstance(node, dict):
        table = {key: _configured(value, settings) for key, value in node.items() if key != "x-setting"}
        if setting := node.get("x-setting"):
            limit = attrgetter(setting)(settings)
            for schema in [each for each in table.get("anyOf", [table]) if each.get("type") == "string"]:
                schema["maxLength"] = limit
            table["description"] = f"{table['description']}; at most {limit} characters ({setting})"
        return table
    if isinstance(node, list):
        return [_configured(each, settings) for each in node]
    if isinstance(node, str) and "{limits." in node:
        return node.format(limits=settings.limits)
    return node
