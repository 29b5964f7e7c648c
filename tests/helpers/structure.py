"""How the code is built: folders, layers, cycles, classes, docstrings. `python tests/helpers/structure.py` prints it.

Layers are read off the path: the first part of a module's name below `p2p_elastic` is its package, and `LAYERS` says
which packages stand below which. Nothing imports upwards, and no import goes in a circle.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "p2p_elastic"
MODULES_MAX = 18  # in one folder
ATTRIBUTES_MAX = 15  # of one class
DOCUMENTED_MIN = 0.9  # of public classes and functions have a docstring that lacks nothing
LAYERS = (
    *("errors", "values", "common", "parameters", "tasks", "rules", "protocol", "status", "rate_limit", "health"),
    *("training", "checkpoint", "simulator", "client", "peers", "api", "bench", "testing", "screens", "service"),
    *("node", "swarm", "integrations"),
    *("doctor", "export", "demo", "cli", "__main__"),
)
INSIDE = {  # what stands directly in the package is above all of these
    "peers": (
        *(
            "transport",
            "admission",
            "direct",
            "relay",
            "discovery",
            "session",
            "membership",
            "exchange",
            "state",
            "gossip",
        ),
        *("centre", "leader", "lifecycle"),
    )
}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> dict[str, ast.Module]:
    """Every module of the product by its name."""
    found = {}
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for path in (Path(folder) / file for file in files if file.endswith(".py")):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            found[".".join(("p2p_elastic", *parts)).removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    return dict(sorted(found.items()))


def imports(tree: ast.Module) -> Iterator[str]:
    """The names that a module imports, wherever in it. Raises AssertionError for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(sources: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Who imports whom. A package's `__init__` only gathers its modules: importing one of them runs it first."""
    return {
        name: {i for i in imports(tree) if i in sources and i != name and not name.startswith(i + ".")}
        for name, tree in sources.items()
    }


def layer(name: str) -> tuple[int, int]:
    """How high a module stands."""
    parts = name.split(".")
    if len(parts) == 1:  # the version, and names of other modules that are imported when they are first used
        return -1, 0
    inside = INSIDE.get(parts[1], ())
    assert parts[1] in LAYERS, f"give {parts[1]!r} its place in LAYERS of tests/helpers/structure.py"
    assert len(parts) < 4 or not inside or parts[2] in inside, f"give {parts[2]!r} its place in INSIDE[{parts[1]!r}]"
    return LAYERS.index(parts[1]), inside.index(parts[2]) if inside and len(parts) > 3 else len(inside)


def upwards(sources: dict[str, ast.Module]) -> list[str]:
    """The imports that point from a lower layer to a higher one."""
    return [
        f"{name} <- {i}" for name, own in graph(sources).items() for i in own if "." in name and layer(i) > layer(name)
    ]


def folders() -> dict[str, int]:
    """Every folder with Python files, and how many modules it has beside its `__init__.py`; the fullest first."""
    tops = [PACKAGE, *(ROOT / name for name in ("peers", "api", "tests", "benchmarks", "examples"))]
    count = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for top in tops
        for path in top.rglob("*.py")
        if path.name != "__init__.py" and "__pycache__" not in path.parts
    )
    return dict(count.most_common())


class Defined(NamedTuple):
    """A public class or function: where it stands, and what its docstring lacks (None: there is no docstring)."""

    name: str
    lacks: tuple[str, ...] | None


def public(sources: dict[str, ast.Module]) -> list[Defined]:
    """Every public function, method and class, without those whose docstring is shown to users by click or FastAPI."""
    return [d for module, tree in sources.items() for d in _public(tree.body, module)]


def _public(body: list[ast.stmt], prefix: str) -> Iterator[Defined]:
    for node in body:
        if not isinstance(node, FUNCTIONS | ast.ClassDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}
        if decorators & {"command", "group", "get", "post", "put", "delete", "head", "overload", "setter"}:
            continue
        name, text = f"{prefix}.{node.name}", ast.get_docstring(node)
        yield Defined(name, None if text is None else tuple(_lacks(node, text, is_property="property" in decorators)))
        if isinstance(node, ast.ClassDef):
            yield from _public(node.body, name)


def _lacks(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, text: str, *, is_property: bool
) -> Iterator[str]:
    """The arguments or fields, results and errors that a docstring does not describe."""
    if isinstance(node, ast.ClassDef):
        yield from (name for name in _fields(node) if not re.search(rf"^ +{name}(, \w+)*:", text, re.MULTILINE))
        return
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    for name in (a.arg for a in arguments if a.arg not in ("self", "cls") and not a.arg.startswith("_")):
        if not re.search(rf"^ +(\w+, )*{name}(, \w+)*:", text, re.MULTILINE):
            yield name
    returns = "None" if node.returns is None else ast.unparse(node.returns)
    returns_nothing = is_property or returns in ("None", "NoReturn", "Never", "Self")
    if not returns_nothing and not re.search(r"^(Returns|Yields):", text, re.MULTILINE):
        yield "Returns"
    if any(isinstance(n, ast.Raise) and n.exc is not None for n in _own_statements(node)) and "Raises:" not in text:
        yield "Raises"


def _own_statements(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, but not in functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTIONS | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own_statements(child)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """What a class is built from: the arguments of `__init__`, or the fields that do not describe themselves."""
    for part in node.body:
        if isinstance(part, FUNCTIONS) and part.name == "__init__":
            yield from (a.arg for a in [*part.args.args, *part.args.kwonlyargs] if a.arg != "self")
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            described = part.value is not None and "description=" in ast.unparse(part.value)
            if not described and not part.target.id.startswith("_"):
                yield part.target.id


def attributes(sources: dict[str, ast.Module]) -> dict[str, int]:
    """Every class, and how many attributes its methods set on `self`; the largest first."""
    count = {
        f"{module}.{node.name}": len({a.attr for a in ast.walk(node) if _is_own(a)})
        for module, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    return dict(sorted(count.items(), key=lambda item: -item[1]))


def _is_own(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def private_uses() -> list[str]:
    """Places in tests that touch a private member of something that is not their own."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr):
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    continue
                if node.attr not in ("_replace", "_asdict", "_fields", "_make", "_field_defaults"):  # of NamedTuple
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("p2p_elastic"):
                found += [
                    f"{path.relative_to(ROOT)}:{node.lineno} {alias.name}"
                    for alias in node.names
                    if alias.name.startswith("_") and not alias.name.startswith("__")
                ]
    return found


def untested_peers(sources: dict[str, ast.Module]) -> list[str]:
    """Modules of `peers/` that no unit test imports."""
    tested: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if not {"live", "scenarios", "simulation"} & set(path.parts):
            tested |= set(imports(ast.parse(path.read_text("utf-8"))))
    peers = [n for n, tree in sources.items() if n.startswith("p2p_elastic.peers.") and len(tree.body) > 1]
    return [name for name in peers if name not in tested]


def main() -> None:
    """Print the figures, and for each what stands out; given the start of a name, what docstrings lack there."""
    sources = modules()
    if len(sys.argv) > 1:
        lacking = [d for d in public(sources) if d.name.startswith(sys.argv[1]) and d.lacks != ()]
        print(*(f"{d.name}: {'a docstring' if d.lacks is None else ', '.join(d.lacks)}" for d in lacking), sep="\n")
        return
    known, private, untested = public(sources), private_uses(), untested_peers(sources)
    rows = [
        ("modules", len(sources), ""),
        ("fullest folders", max(folders().values()), ", ".join(f"{n} {c}" for n, c in [*folders().items()][:5])),
        ("imports upwards", len(upwards(sources)), ", ".join(upwards(sources)[:5])),
        (
            "most attributes in a class",
            max(attributes(sources).values()),
            ", ".join(f"{n.removeprefix('p2p_elastic.')} {c}" for n, c in [*attributes(sources).items()][:5]),
        ),
        ("private members touched by tests", len(private), ", ".join(private[:3])),
        ("modules of peers/ without unit tests", len(untested), ", ".join(untested)),
        ("public classes and functions", len(known), ""),
        ("with a docstring, %", round(100 * sum(d.lacks is not None for d in known) / len(known)), ""),
        ("docstrings that lack nothing, %", round(100 * sum(d.lacks == () for d in known) / len(known)), ""),
    ]
    for name, value, more in rows:
        print(f"{name:38} {value:6}  {more}")


if __name__ == "__main__":
    main()
