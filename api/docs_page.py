"""The page at /docs: the OpenAPI document as plain HTML, with no script and nothing from another host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid #8884; padding: .25rem 1rem .25rem 0; vertical-align: top; }
h2, h3 { margin-top: 2rem; }
@media (max-width: 40rem) {
  body { overflow-wrap: anywhere; }
  table, tbody, tr, td { display: block; }
  tr { border-top: 1px solid #8884; padding: .25rem 0; }
  td { border: 0; padding: 0; }
  td:not(:last-child) { display: inline-block; margin-right: 1rem; }
}
"""


def page(openapi: Json) -> str:
    """Write the whole page for one OpenAPI document.

    Args:
        openapi: the document.

    Returns:
        HTML, with every text escaped.
    """
    info = openapi["info"]
    operations = (
        _operation(method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    schemas = (_schema(name, schema) for name, schema in openapi.get("components", {}).get("schemas", {}).items())
    title = escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        f"<p>{_words(info)} The same for programs: "
        f'<a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(operations)}<h2>Schemas</h2>{''.join(schemas)}</body></html>"
    )


def _operation(method: str, path: str, operation: Json) -> str:
    asked = [
        (f"<code>{escape(one['name'])}</code>", _type(one["schema"]), _words(one))
        for one in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        asked.append(("body", _content(operation["requestBody"]), ""))
    if "security" in operation:
        asked.append(("token", "<code>Authorization: Bearer TOKEN</code>", ""))
    answers = [(code, _content(response), _words(response)) for code, response in operation["responses"].items()]
    address = escape(path)
    if method == "get":
        address = f'<a href="{escape(path.lstrip("/"))}">{address}</a>'
    return (
        f"<h3><code>{method.upper()} {address}</code> {escape(operation.get('summary', ''))}</h3>"
        f"<p>{_words(operation)}</p>{_table([*asked, *answers])}"
    )


def _schema(name: str, schema: Json) -> str:
    rows = (
        (f"<code>{escape(field)}</code>", _type(value), _words(value))
        for field, value in schema.get("properties", {}).items()
    )
    values = "" if "properties" in schema else f"<p>{_type(schema)}</p>"
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{_words(schema)}</p>{values}{_table(rows)}'


def _words(described: Json) -> str:
    """Show the description, with names in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(described.get("description", "")))


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _content(message: Json) -> str:
    """Say what a body or an answer consists of: its schema if it is JSON, the kind of text otherwise."""
    for kind, content in message.get("content", {}).items():
        return _type(content.get("schema", {})) if kind == "application/json" else escape(kind)
    return "nothing"


def _type(schema: Json) -> str:
    """Say a JSON schema in words; a named one is a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "const" in schema or "enum" in schema:
        return " | ".join(escape(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    for union in ("anyOf", "allOf", "oneOf"):
        if union in schema:
            return " or ".join(_type(one) for one in schema[union])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"{_type(schema.get('propertyNames', {'type': 'string'}))} to {_type(schema['additionalProperties'])}"
    return escape(str(schema.get("type", "anything")))
