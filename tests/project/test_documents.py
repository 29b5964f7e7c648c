"""What the documents say is what the code does: codes, commands, options, files, links, examples, the picture."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import io
import itertools
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import get_args

import click
import pytest
import torch

import p2p_elastic
from p2p_elastic.cli.main import main
from p2p_elastic.client import reading
from p2p_elastic.client import status as client
from p2p_elastic.health import checks as health
from p2p_elastic.health import diagnose as why
from p2p_elastic.health.causes import OF_FAILURES
from p2p_elastic.peers.exchange.journal import Skip
from p2p_elastic.protocol.codecs import CODECS
from p2p_elastic.protocol.messages import DeclineReason
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import RULES

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PACKAGE = Path(p2p_elastic.__file__).parent
FOLDERS = ("p2p_elastic", "peers", "api", "tests", "benchmarks", "docs", "docker", "findings")
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), REPOSITORY / "api/README.md", REPOSITORY / "peers/README.md"]
)
TEXTS = {str(page.relative_to(REPOSITORY)): page.read_text(encoding="utf-8") for page in PAGES}
# A change is described as it was, and the results as they were run: what they name may be gone since.
PRESENT = {
    name: text for name, text in TEXTS.items() if not name.startswith(("docs/results/", "CHANGELOG", "docs/changelog"))
}
every_page = pytest.mark.parametrize("name", PRESENT)
COMMANDS = [d for c in main.commands.values() for d in (c, *getattr(c, "commands", {}).values())]


# -- the catalogue of errors: nothing missing, nothing left over -------------------------------------------------------


def catalogue(section: str) -> list[str]:
    """The codes of a section of docs/errors.md, each with a meaning, a cause and an action of its own."""
    text = TEXTS["docs/errors.md"].split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in text.splitlines() if row[:1] == "|"]
    assert rows[0][1:] == ["meaning", "cause", "action"]
    for code, meaning, cause, action in rows[2:]:
        assert meaning, code
        assert cause or action, code
        assert re.fullmatch(r"`[^`]+`", code)
    codes = [row[0].strip("`") for row in rows[2:]]
    assert len(codes) == len(set(codes))
    return codes


def modules() -> Iterator[ast.Module]:
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        for name in names:
            if name.endswith(".py"):
                yield ast.parse(Path(folder, name).read_text(encoding="utf-8"))


NODES = [node for module in modules() for node in ast.walk(module)]


def strings(node: ast.AST) -> Iterator[str]:
    return (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def reason_codes(found: ModuleType | Callable[..., object]) -> set[str]:
    """The codes of all reasons that are built there."""
    calls = [n for n in ast.walk(ast.parse(inspect.getsource(found))) if isinstance(n, ast.Call)]
    return {
        code.value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in ("Reason", "_reason")
        for code in (*call.args[:1], *(k.value for k in call.keywords if k.arg == "code"))
        if isinstance(code, ast.Constant) and isinstance(code.value, str)
    }


def test_every_outcome_has_its_entry() -> None:
    assert catalogue("Outcomes") == [outcome.value for outcome in Outcome]


def test_every_decline_reason_has_its_entry_and_what_followers_add() -> None:
    known = [reason.value for reason in DeclineReason]
    assert catalogue("Decline reasons") == known
    text = TEXTS["docs/errors.md"]
    assert all(f"`{word}`" in text for word in {*why.DECLINES, why.UNCHANGED} - set(known))


def test_every_code_of_health_and_readiness_has_its_entry() -> None:
    of_readiness = reason_codes(health.why_not_ready)
    assert set(catalogue("Readiness codes")) == of_readiness
    assert set(catalogue("Health codes")) == reason_codes(health) - of_readiness
    assert len(of_readiness) == 2


def test_every_code_of_why_has_its_entry() -> None:
    of_exchanges = {code for code, *_ in OF_FAILURES}
    assert set(catalogue("Why codes")) == reason_codes(why) | of_exchanges | {"members_drained"}  # which health builds
    assert len(catalogue("Why codes")) > len(of_exchanges) + 10


def test_every_reason_for_a_skipped_exchange_has_its_entry() -> None:
    assert catalogue("Reasons for a skipped exchange") == list(get_args(Skip))


def test_every_kind_of_a_peer_that_cannot_be_asked_has_its_entry() -> None:
    assert catalogue("A peer that cannot be asked") == list(get_args(reading.Kind))


def test_every_exception_class_has_its_entry() -> None:
    classes = {n.name: {ast.unparse(base) for base in n.bases} for n in NODES if isinstance(n, ast.ClassDef)}
    known = {"Exception", "BaseException", "ValueError", "RuntimeError", "OSError"}
    found: set[str] = set()
    while more := {name for name, bases in classes.items() if bases & (known | found)} - found:
        found |= more
    assert set(catalogue("Exceptions")) == {name for name in found if not name.startswith("_")}


def test_every_exit_code_has_its_entry() -> None:
    assigned = [n.value for n in NODES if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "exit_code"]
    exits = [
        n.args[0]
        for n in NODES
        if isinstance(n, ast.Call) and ast.unparse(n.func) in ("sys.exit", "os._exit") and n.args
    ]
    constant = {n.value for n in (*assigned, *exits) if isinstance(n, ast.Constant)}
    answers = [client.Answer(url="", state=state, seconds=0.0) for state in ("ok", "degraded", "unreachable")]
    computed = {client.exit_code([answer]) for answer in answers}
    of_signals = {128 + signal.SIGINT, 128 + signal.SIGTERM}
    assert {int(code) for code in catalogue("Exit codes")} == constant | computed | of_signals


# -- commands, options, files, links -----------------------------------------------------------------------------------


@every_page
def test_every_option_in_a_document_exists(name: str) -> None:
    known = {o for c in COMMANDS for p in c.params for o in p.opts} | {"--help", "--version"}
    lines = [line for line in PRESENT[name].splitlines() if "p2p-elastic " in line]
    used = {o for line in lines for o in re.findall(r"(?<!pip )--[a-z][a-z-]+", line.split("p2p-elastic ", 1)[1])}
    assert used <= known


@every_page
def test_every_command_in_a_document_exists(name: str) -> None:
    blocks = re.findall(r"```[a-z]*\n(.*?)```", PRESENT[name], re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    used = {line.split()[1] for line in lines if re.match(r"p2p-elastic [a-z]", line)}
    assert used <= main.commands.keys()


@every_page
def test_every_make_target_in_a_document_exists(name: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", makefile, re.MULTILINE))
    used = re.findall(r"^make ([a-z0-9]+)|`make ([a-z0-9]+)", PRESENT[name], re.MULTILINE)
    assert set(itertools.chain(*used)) - {""} <= targets


@every_page
def test_every_file_that_a_document_names_exists(name: str) -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[^`\s:*]*)`", PRESENT[name]))
    assert {path for path in named if not (REPOSITORY / path).exists()} == set()


@every_page
def test_every_test_that_a_document_names_exists(name: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PRESENT[name])
    missing = [f"{path}::{test}" for path, test in named if f"def {test}(" not in (REPOSITORY / path).read_text()]
    assert missing == []


def test_every_variable_of_the_environment_is_in_the_reference() -> None:
    read = [n.args[0] for n in NODES if isinstance(n, ast.Call) and re.match(r"os\.environ\.\w+$", ast.unparse(n.func))]
    looked_for = [n.left for n in NODES if isinstance(n, ast.Compare) and ast.unparse(n.comparators[0]) == "os.environ"]
    names = {name for node in (*read, *looked_for) for name in strings(node)}
    assert {"P2P_ELASTIC_DATA", "TMPDIR", "HIVEMIND_LOGLEVEL"} <= names
    assert all(f"`{name}`" in TEXTS["docs/reference/configuration.md"] for name in names)


def anchors(text: str) -> set[str]:
    """Of each heading, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name: str) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[name], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), target


def test_the_readme_shows_the_two_commands_and_the_pictures() -> None:
    readme = TEXTS["README.md"]
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)", readme, re.MULTILINE))
    assert "pip install ." in readme
    assert {"docs/dashboard.png", "docs/architecture.svg"} <= set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme))
    assert len(readme.encode()) < 7000


# -- rules, codecs, examples, the picture ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "docs/guides/rules.md"])
def test_the_table_of_rules_has_those_that_run_live(name: str) -> None:
    rows = re.findall(r"^\| (`.*?) \|", TEXTS[name], re.MULTILINE)
    named = [rule for row in rows for rule in re.findall(r"`([a-z-]+)`", row)]
    assert set(RULES) >= {rule for rule, method in RULES.items() if method.live} == set(named) - {"--rule"}


def test_the_protocol_describes_every_codec() -> None:
    table = TEXTS["docs/protocol/messages.md"].split("| `codec` |")[1].split("\n\n")[0]
    first = "".join(row.split("|")[1] for row in table.splitlines()[2:])
    assert set(re.findall(r"`([a-z0-9]+)`", first)) == set(CODECS)


@pytest.mark.processes
def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    here = {"host": "127.0.0.1", "port": 0, "http_port": 0, "output": tmp_path / "run"}
    monkeypatch.setattr(p2p_elastic, "Swarm", functools.partial(p2p_elastic.Swarm, **here))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    model = torch.nn.Linear(4, 2)
    batch = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loader": [batch] * 5}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example, "README.md", "exec"), {"torch": torch, **given})
    assert "initial_peers=['/ip4/127.0.0.1/tcp/" in said.getvalue()
    assert "Finished after 5 steps" in said.getvalue()
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_the_picture_has_all_that_its_source_has() -> None:
    source, picture = ((DOCS / f"architecture.{kind}").read_text() for kind in ("dot", "svg"))
    drawn = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", picture)).replace("&#45;", "-")
    for label in re.findall(r'\blabel="([^"]+)"', source):
        for line in label.split("\\n"):
            assert line in drawn


# -- what is generated -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated() -> Mapping[str, Callable[[], str]]:
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: Mapping[str, Callable[[], str]] = module.PAGES
    return pages


def test_each_generated_part_has_its_page(generated: Mapping[str, Callable[[], str]]) -> None:
    marks = [mark for text in TEXTS.values() for mark in re.findall(r"<!-- generated: ([a-z-]+) -->", text)]
    assert sorted(marks) == sorted(generated)


def test_the_reference_has_every_option(generated: Mapping[str, Callable[[], str]]) -> None:
    page = generated["command-line"]()
    options: Iterable[click.Parameter] = (p for c in COMMANDS for p in c.params)
    assert all(f"`{name}`" in page for p in options if isinstance(p, click.Option) for name in p.opts)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("http", ("### GET /v1/status", "### PUT /v1/signals/{name}", "### PeerStatus", "`steps_per_second`")),
        ("metrics", ("`p2p_elastic_training_steps_total` | counter", "`p2p_elastic_exchanges_total`", "`outcome`")),
        ("constants", ("## p2p_elastic.peers.session.deadlines", "`FLOOR_SECONDS` | `2.0`", "`Limits.idle_seconds`")),
    ],
)
def test_the_reference_has(part: str, words: tuple[str, ...], generated: Mapping[str, Callable[[], str]]) -> None:
    page = generated[part]()
    assert all(word in page for word in words)
