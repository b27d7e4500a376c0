"""The document for people: one page of plain HTML, made on the server.

Why not Swagger UI, Redoc or Scalar: each is half a megabyte to several of script, more than this whole
package, to be run in the reader's browser before a word can be read, and each wants a policy that lets
scripts and inline styles run. A page of headings, tables and examples to copy needs none. It is read by a
screen reader, printed and searched like any text, and its policy allows nothing but its own style sheet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from shlex import quote
from typing import Any

Table = dict[str, Any]

BASE = "http://127.0.0.1:7860"

STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1b1d22,#e7e8ea);--paper:light-dark(#fff,#16181c);
--soft:light-dark(#f2f3f5,#22252b);--line:light-dark(#767b85,#8b919c);--link:light-dark(#0b57d0,#8ab4f8)}
*{box-sizing:border-box}
body{margin:0 auto;padding:0 1.25rem 4rem;max-width:64rem;font:1rem/1.55 system-ui,sans-serif;
color:var(--ink);background:var(--paper)}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,pre:focus-visible,div:focus-visible{outline:3px solid var(--link);
outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
h2{margin-top:3rem;border-bottom:1px solid var(--line)}
h3{margin-top:2.5rem}
code,pre{font:.9rem/1.5 ui-monospace,monospace}
pre{overflow:auto;padding:.75rem;background:var(--soft);border-radius:.375rem}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.75rem 0}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line)}
th[scope=row]{white-space:nowrap;font-weight:400}
nav ul{columns:2 20rem;padding-left:1.2rem}
summary{cursor:pointer;padding:.3rem 0}
"""


def render(document: Table) -> bytes:
    """The whole page."""
    return "".join(_page(document)).encode(errors="replace")


def _page(document: Table) -> Iterator[str]:
    info = document["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body>"
    yield '<a class="skip" href="#operations">Skip to the operations</a>'
    yield f"<header><h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1>"
    for paragraph in info["description"].split("\n\n"):
        yield f"<p>{_text(paragraph)}</p>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>, OpenAPI 3.1.</p></header>'
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    yield '<nav aria-label="Operations"><ul>'
    for method, path, operation in operations:
        name = f"<code>{method.upper()} {escape(path)}</code>"
        yield f'<li><a href="#{operation["operationId"]}">{name}</a></li>'
    yield '</ul></nav><main id="operations">'
    for tag in document["tags"]:
        yield f"<section><h2>{escape(tag['name'])}</h2>"
        for method, path, operation in operations:
            if tag["name"] in operation["tags"]:
                yield from _operation(method, path, operation, document)
        yield "</section>"
    yield "<section><h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>'
        yield f"<p>{_text(schema.get('description', ''))}</p>"
        yield from _fields(schema, f"Fields of {name}")
    yield "</section></main></body></html>"


def _operation(method: str, path: str, operation: Table, document: Table) -> Iterator[str]:
    """One operation: what it takes, an example, what it answers."""
    yield f'<article aria-labelledby="{operation["operationId"]}"><h3 id="{operation["operationId"]}">'
    yield f"<code>{method.upper()} {escape(path)}</code></h3><p>{_text(operation['summary'])}.</p>"
    if "description" in operation:
        yield f"<p>{_text(operation['description'])}</p>"
    rows = [
        (p["name"], f"{p['in']}{', required' if p['required'] else ''}", _text(p["description"]))
        for p in operation["parameters"]
    ]
    yield from _table("Parameters", ("name", "place", "meaning"), rows)
    body = operation.get("requestBody")
    if body:
        ((media_type, content),) = body["content"].items()
        yield from _fields(_resolve(content["schema"], document), f"Body: {media_type}", body["description"])
    yield _pre(curl(method, path, operation), "sh")
    answers, failures = [], []
    for status, response in operation["responses"].items():
        is_failure = "$ref" in response
        response = _resolve(response, document)
        if not is_failure:
            answers.append((status, *_cells(response)))
        else:
            failures.append((status, *_failure_cells(response)))
    yield from _table("Answers", ("status", "meaning", "form", "headers"), answers)
    for response in operation["responses"].values():
        if "$ref" not in response:
            for media_type, content in response.get("content", {}).items():
                if "example" in content:
                    yield _example(f"Example of {media_type}", content["example"])
    yield "<details><summary>Errors</summary>"
    yield from _table("Errors", ("status", "code and meaning", "headers"), failures)
    yield "</details></article>"


def _cells(response: Table) -> tuple[str, str, str]:
    """Meaning, form and headers of an answer."""
    forms = [
        f"<code>{escape(media_type)}</code> {_type(content['schema'])}"
        for media_type, content in response.get("content", {}).items()
    ]
    return _text(response["description"]), "<br>".join(forms), _header_names(response)


def _failure_cells(response: Table) -> tuple[str, str]:
    """Codes, with when they come, and headers of an error."""
    examples = response["content"]["application/json"]["examples"]
    lines = [
        f"<code>{json.dumps(example['value']['error']['code'])}</code> {_text(example['summary'])}"
        for example in examples.values()
    ]
    return "<br>".join(lines), _header_names(response)


def _header_names(response: Table) -> str:
    return "<br>".join(f"<code>{escape(name)}</code>" for name in response.get("headers", {}))


def _fields(schema: Table, caption: str, note: str = "") -> Iterator[str]:
    """The table of a schema's fields."""
    required = schema.get("required", [])
    rows = [
        (
            name,
            _type(field),
            "yes" if name in required else _default(field),
            _text(field.get("description", "")),
        )
        for name, field in schema.get("properties", {}).items()
    ]
    if note:
        yield f"<p>{_text(note)}</p>"
    if not rows:
        yield f"<p>{_type(schema)}</p>"
    yield from _table(caption, ("field", "type", "required, or default", "meaning"), rows)


def _default(field: Table) -> str:
    return (
        f"<code>{escape(json.dumps(field['default']))}</code>"
        if field.get("default") not in (None, "")
        else ""
    )


def _type(schema: Table) -> str:
    """A schema in few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if "contentSchema" in schema.get("properties", {}).get("data", {}):
        return f"events: {_type(schema['properties']['data']['contentSchema'])}"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return ", ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    kind = str(schema.get("format") or schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    bounds = [f"{words} {schema[key]:,}" for key, words in BOUNDS.items() if key in schema]
    return ", ".join([kind, *bounds])


BOUNDS = {
    "minimum": "from",
    "maximum": "to",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
    "minLength": "shortest",
    "maxLength": "longest",
}


def _table(caption: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """A table whose first column names the row; cells are HTML already."""
    if not rows:
        return
    yield f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}">'
    yield f"<table><caption>{escape(caption)}</caption><thead><tr>"
    yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    for first, *rest in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        yield f'<tr><th scope="row"><code>{escape(first)}</code></th>{cells}</tr>'
    yield "</tbody></table></div>"


def _example(title: str, example: Any) -> str:
    text = example if isinstance(example, str) else json.dumps(example, indent=1, ensure_ascii=False)
    return f"<details><summary>{escape(title)}</summary>{_pre(text, title)}</details>"


def _pre(text: str, label: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}"><code>{escape(text)}</code></pre>'


def _text(text: str) -> str:
    """A line of prose; `code` is the only mark it has."""
    parts = text.split("`")
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(parts))


def _resolve(node: Table, document: Table) -> Table:
    """What a reference stands for."""
    if "$ref" not in node:
        return node
    found: Table = document
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def curl(method: str, path: str, operation: Table) -> str:
    """A command to copy."""
    query = ""
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
        elif parameter["in"] == "query":
            query = f"?{parameter['name']}={parameter['example']}"
    words = [
        "curl -sS --fail-with-body",
        *([] if method in ("get", "post") else [f"-X {method.upper()}"]),
        quote(BASE + path + query),
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if media_type == "application/json":
            words.append(f"-d {quote(json.dumps(content['example'], ensure_ascii=False))}")
            continue
        fields = content["schema"]["properties"].items()
        files = [name for name, field in fields if field.get("format") == "binary"]
        words += [f"-F {name}=@recording.wav" for name in files if name in content["schema"]["required"]]
        given = [(name, value) for name, field in fields for value in field.get("examples", [])]
        words += [f"-F {quote(f'{name}={value}')}" for name, value in given]
    if method == "post" and "requestBody" not in operation:
        words.append("-X POST")
    kinds = operation["responses"].get("200", {}).get("content", {})
    if any(kind.startswith("audio/") for kind in kinds):
        words.append("-o answer.audio")
    return " ".join(words)
