"""The parts of the reference that the code knows better than a person: written anew at each build, never committed.

A page says `<!-- generated: NAME -->`, and `conf.py` puts the Markdown of `PAGES[NAME]()` there.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import click
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

import p2p_elastic
from p2p_elastic.api import create_app
from p2p_elastic.api.metrics import exposition
from p2p_elastic.cli.main import main
from p2p_elastic.status.schema import PeerStatus

PACKAGE = Path(p2p_elastic.__file__).parent


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown; a bar within a cell is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


# -- the command line --------------------------------------------------------------------------------------------------


def commands(command: click.Command = main, path: str = "p2p-elastic") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, a group before its own."""
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands(below, f"{path} {name}")


def command_line() -> str:
    """Each command as a section: what it says with --help, and its options as a table."""
    return "\n".join(_command(path, command) for path, command in commands())


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join((path, *command.collect_usage_pieces(context)))
    given = [_option(p, context) for p in command.params if isinstance(p, click.Option)]
    options = table(("option", "value", "what it is for"), given) if given else ""
    return f"## {path}\n\n```text\n{usage}\n```\n\n{_prose(inspect.cleandoc(command.help or ''))}\n\n{options}"


def _prose(text: str) -> str:
    r"""Paragraphs as they are; a block that click must not wrap (behind `\b`) as code."""
    blocks = re.split(r"\n[ \t]*\n", text)
    return "\n\n".join(f"```text\n{b.removeprefix(chr(8) + chr(10))}\n```" if b.startswith("\b") else b for b in blocks)


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    record = option.get_help_record(context)
    value = "" if option.is_flag else option.make_metavar(context)
    return names, f"`{value}`" if value else "", _plain(record[1] if record else "")


def _plain(text: str) -> str:
    """What is between angle brackets is no HTML, and an asterisk is one."""
    return text.replace("<", "\\<").replace("*", "\\*")


# -- HTTP --------------------------------------------------------------------------------------------------------------


def http() -> str:
    """Each operation of the OpenAPI document, and then each value that it answers with or takes."""
    document = create_app(_no_status).openapi()
    operations = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "## Addresses\n\n" + "\n".join(operations) + "\n## Values\n\n" + "\n".join(schemas)


def _no_status() -> PeerStatus:
    raise AssertionError("no request is made here")


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    taken = [
        (f"`{one['name']}`", one["in"], one.get("description", ""), _kind(one["schema"]))
        for one in operation.get("parameters", ())
    ]
    answers = [
        (code, answer["description"], ", ".join(_answered(answer))) for code, answer in operation["responses"].items()
    ]
    body = [_kind(one["schema"]) for one in operation.get("requestBody", {}).get("content", {}).values()]
    return "\n".join(
        (
            f"### {method.upper()} {path}\n",
            f"{operation.get('description', operation['summary'])}\n",
            f"Takes {', '.join(body)} as JSON.\n" if body else "",
            table(("parameter", "in", "what it is", "type"), taken) if taken else "",
            table(("code", "when", "answer"), answers),
        )
    )


def _answered(answer: Mapping[str, Any]) -> Iterator[str]:
    for media, content in answer.get("content", {}).items():
        yield _kind(content["schema"]) if content.get("schema") else f"`{media}`"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    rows = [
        (f"`{field}`", _kind(about), _plain(about.get("description", "")))
        for field, about in schema.get("properties", {}).items()
    ]
    shown = table(("field", "type", "what it is"), rows) if rows else f"One of {_kind(schema)}.\n"
    return f"### {name}\n\n{schema.get('description', '')}\n\n{shown}"


def _kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", (schema.get("const"),)))
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object, name to {_kind(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Each family of /metrics, of a status in which every part is there."""
    text = exposition(_filled(PeerStatus)).decode()
    families = sorted(text_string_to_metric_families(text), key=lambda family: family.name)
    assert len(families) > 20
    return table(
        ("name", "kind", "labels", "what it is"),
        [
            (f"`{family.samples[0].name}`", family.type, _labels(family.samples[0].labels), family.documentation)
            for family in families
            if family.samples
        ],
    )


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}`" for name in labels)


def _filled(kind: Any) -> Any:
    """A value of that type in which nothing is left out."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _filled(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        return _filled(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return (_filled(arguments[0]),)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_filled(arguments[0]): _filled(arguments[1])}
    if issubclass(kind, BaseModel):
        return kind.model_validate({name: _filled(field.annotation) for name, field in kind.model_fields.items()})
    return next(iter(kind)) if issubclass(kind, Enum) else kind("1") if kind is str else kind(1)


# -- constants ---------------------------------------------------------------------------------------------------------


class Constant(NamedTuple):
    """A number with a name, and the comment beside it."""

    name: str
    value: str
    comment: str


def constants() -> str:
    """The named numbers of each module, as they are written there."""
    files = (Path(root, name) for root, _, names in os.walk(PACKAGE, followlinks=True) for name in names)
    found = {path: list(_constants(path)) for path in sorted(files) if path.suffix == ".py"}
    return "\n".join(
        f"## {'.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts)}\n\n"
        + table(("name", "value", "what it is"), [(f"`{c.name}`", f"`{c.value}`", _plain(c.comment)) for c in of_file])
        for path, of_file in found.items()
        if of_file
    )


def _constants(path: Path) -> Iterator[Constant]:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef)):
            for statement in node.body:
                yield from _assigned(node, statement, lines)


def _assigned(parent: ast.Module | ast.ClassDef, statement: ast.stmt, lines: list[str]) -> Iterator[Constant]:
    """A number that is given a name in capitals, or is the default of a class called Limits."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return
    if not isinstance(target, ast.Name) or statement.value is None or not _is_number(statement.value):
        return
    of_limits = isinstance(parent, ast.ClassDef) and parent.name == "Limits"
    named = isinstance(parent, ast.Module) and re.fullmatch(r"[A-Z][A-Z0-9_]+", target.id)
    if named or of_limits:
        comment = lines[(statement.end_lineno or 1) - 1].partition("#")[2].strip()
        name = f"Limits.{target.id}" if of_limits else target.id
        yield Constant(name, ast.unparse(statement.value), comment)


def _is_number(value: ast.expr) -> bool:
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    return all(
        isinstance(node, allowed) and not (isinstance(node, ast.Constant) and type(node.value) not in (int, float))
        for node in ast.walk(value)
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "command-line": command_line,
    "http": http,
    "metrics": metrics,
    "constants": constants,
}
