"""What it takes to put a loop of one's own into a swarm: with p2p-elastic, hivemind, torchft and Flower.

    python benchmarks/own_loop/count.py --count-only
    python benchmarks/own_loop/count.py --python torchft=VENV/bin/python --python flower=VENV/bin/python

Counts by `ast` what differs from `plain.py`, runs each loop with two processes, and writes docs/results/own-loop.md.
A statement with a body counts as its first line; imports and docstrings are counted apart or not at all.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from run import Ran, run_two, version_of

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results" / "own-loop.md"
PLAIN = "plain"
LIBRARIES = {"swarm": "p2p_elastic", "hivemind": "hivemind", "torchft": "torchft", "flower": "flwr"}
HEAD = (
    "loop",
    "version",
    "statements",
    "imports",
    "modules",
    "other processes",
    "ended well",
    "last losses",
    "seconds",
)
INTRODUCTION = """# A loop of one's own: what it takes

The same loop (`benchmarks/own_loop/plain.py`: digits, a small MLP, AdamW) in four libraries, with two processes. Each
process sees half of the digits, and the loss is that on all of them: it is low only if something was exchanged.
Statements are those that were added or changed, without imports: a call with eight arguments is one, and so is a
function around the loop. Flower's `flower_app.toml` is left out. Modules are those of
the library that are named.
Losses and seconds are of one run on a machine that others used too, and each library exchanges at its own pace: they
show that it ran, and do not compare. Seconds include the start of all processes.
"""


class Counted(NamedTuple):
    """What one version of the loop needs beyond the plain one."""

    statements: int
    imports: int
    modules: int
    processes: int
    reason: str


def statements(source: str) -> list[str]:
    """Each statement as text, without its body; no imports, no docstrings."""
    return [_first_line(node) for node in _walk(ast.parse(source)) if not _is_silent(node)]


def _walk(node: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        yield from _walk(child)


def _is_silent(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Import | ast.ImportFrom)


def _first_line(node: ast.stmt) -> str:
    body = getattr(node, "body", None)
    if not body:
        return ast.unparse(node)
    names = ("body", "orelse", "finalbody", "handlers")
    head = type(node)(**{name: value for name, value in ast.iter_fields(node) if name not in names})
    for name in names:
        if hasattr(node, name):
            setattr(head, name, [])
    return ast.unparse(ast.fix_missing_locations(head))


def imported(source: str, library: str) -> list[str]:
    """The modules of a library that are imported, one for each import statement's name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [name for name in names if name.split(".")[0] == library]
    return found


def others(source: str) -> tuple[int, str]:
    """What the docstring says about the processes that somebody has to run beside the peers, and why."""
    said = re.search(r"^Other processes: (\d+) \((.*)\)\.$", ast.get_docstring(ast.parse(source)) or "", re.MULTILINE)
    assert said, "the docstring names no other processes"
    return int(said[1]), said[2]


def count(plain: str, source: str, library: str) -> Counted:
    """Compare a version of the loop with the plain one; both are texts of Python."""
    before, after = statements(plain), statements(source)
    kept = sum(block.size for block in difflib.SequenceMatcher(None, before, after, False).get_matching_blocks())
    modules = imported(source, library)
    return Counted(len(after) - kept, len(modules), len(set(modules)), *others(source))


def row(name: str, version: str, counted: Counted, ran: Ran | None) -> list[str]:
    cells = [f"`with_{name}.py`", version, *map(str, counted[:4])]
    if ran is None:
        return [*cells, "not run", "", ""]
    return [*cells, "yes" if ran.well else "no", ", ".join(ran.losses), f"{ran.seconds:.0f}"]


def table(rows: list[list[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count-only", action="store_true", help="run nothing, and write no page")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--python", action="append", default=[], metavar="LOOP=PATH", help="who has that library")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    pythons = dict(given.split("=", 1) for given in asked.python)
    plain = (HERE / "plain.py").read_text("utf-8")
    rows, notes = [], []
    for name, library in LIBRARIES.items():
        python = pythons.get(name, sys.executable)
        counted = count(plain, (HERE / f"with_{name}.py").read_text("utf-8"), library)
        ran = None if asked.count_only else run_two(name, python, asked.steps)
        rows.append(row(name, version_of(library, python), counted, ran))
        notes.append(f"* `with_{name}.py`: {counted.reason}.")
        if ran is not None and not ran.well:
            notes.append(f"  It did not end well: `{ran.error}`")
    text = "\n".join([table(rows), "", "Other processes:", "", *notes])
    print(text)
    if not asked.count_only:
        alone = run_two(PLAIN, sys.executable, asked.steps)
        PAGE.write_text(f"{INTRODUCTION}\n{text}\n\n{footer(asked.steps, alone)}", "utf-8")


def footer(steps: int, alone: Ran) -> str:
    day = datetime.now(timezone.utc).date()
    command = shlex.join(["python", "benchmarks/own_loop/count.py", *(a for a in sys.argv[1:])])
    python, machine = platform.python_version(), f"{platform.system()} {platform.machine()}"
    return (
        f"Without any exchange (`plain.py`), the last losses are {', '.join(alone.losses)} after {alone.seconds:.0f} "
        f"seconds. {steps} steps, {day}, Python {python}, {machine}:\n\n```\n{command}\n```\n"
    )


if __name__ == "__main__":
    main()
