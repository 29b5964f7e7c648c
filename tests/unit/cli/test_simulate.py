from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from helpers.simulated import made_up
from rich.console import Console

from p2p_elastic.cli.options import CODEC_NAMES
from p2p_elastic.cli.simulate import RULES_IN_SHORT, simulate
from p2p_elastic.cli.simulation import Settings, load_job, sweep_series
from p2p_elastic.protocol.codecs import CODECS
from p2p_elastic.rules.methods import RULES
from p2p_elastic.screens.simulation import BarProgress, LineProgress, outcome_table, sweep_table
from p2p_elastic.simulator.options import KEYS, build
from p2p_elastic.simulator.report import read_result
from p2p_elastic.simulator.sweep import digest

pytestmark = pytest.mark.processes

SHORT = ["--steps", "6", "--evaluate-steps", "3", "--workers", "2", "--threads", "1", "--device", "cpu"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(simulate, [*arguments], catch_exceptions=False)


# ---------------------------------------------------------------- help


def test_every_option_is_in_the_configuration_and_the_other_way_round() -> None:
    given = {p.name for p in simulate.params} - {"config_file", "list_rules", "as_json"}
    assert given == {*KEYS, *Settings.model_fields}
    assert all(isinstance(p, click.Option) and p.help for p in simulate.params)


def test_the_help_has_headings_every_rule_and_examples_that_parse() -> None:
    text = run("--help").output
    for expected in ("What goes wrong:", "--burst-steps", "Rules:", "Examples:", *RULES):
        assert expected in text
    for line in text.splitlines():
        if line.strip().startswith("p2p-elastic simulate "):
            with simulate.make_context("simulate", line.split()[2:]) as context:
                load_job(None, {k: v for k, v in context.params.items() if v and k not in ("as_json", "config_file")})


def test_the_short_descriptions_are_of_all_rules() -> None:
    assert list(RULES_IN_SHORT) == list(RULES)


def test_the_help_names_all_codecs() -> None:
    assert list(CODEC_NAMES) == list(CODECS)


def test_list_rules_describes_each_with_its_defaults() -> None:
    text = run("--list-rules").output
    assert all(method.summary in text for method in RULES.values())
    assert "moving rate 0.9 / p for p workers, momentum 0; simulator only" in text
    assert "no moving rate, momentum the task's; simulator and live" in text.split("gosgd")[1].split("\n")[1]


# ---------------------------------------------------------------- one simulation


def test_a_simulation_prints_a_table_and_leaves_its_result_and_pictures(tmp_path: Path) -> None:
    done = run(*SHORT, "--output", str(tmp_path / "out"), "--drop", "0.5", "--period", "1")
    assert done.exit_code == 0
    for expected in ("steps of each worker", "test accuracy of their average", "consensus distance", "injected: drop"):
        assert expected in done.output
    result = read_result(tmp_path / "out")
    assert result.config == build({"steps": 6, "evaluate_steps": 3, "workers": 2, "drop": 0.5, "period": 1})
    assert [point.step for point in result.points] == [3, 6]
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"result.json", "curve.csv", "accuracy-steps.png", "consensus-steps.png"} <= names


def test_how_workers_are_computed_can_be_chosen_and_is_not_part_of_the_configuration(tmp_path: Path) -> None:
    results = []
    for loop in ("stacked", "looped"):
        assert run(*SHORT, "--no-plots", "--loop", loop, "--output", str(tmp_path / loop)).exit_code == 0
        results.append(read_result(tmp_path / loop))
    assert results[0].config == results[1].config
    losses = [result.points[-1].training_loss for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    done = run(*SHORT, "--loop", "both")
    assert done.stderr.startswith("p2p-elastic: error: loop: got 'both'; 'auto', 'stacked' or 'looped'")


def test_the_default_folder_names_rule_task_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*SHORT, "--no-plots", "--rule", "none", "--seed", "7").exit_code == 0
    (folder,) = (tmp_path / "simulations").iterdir()
    assert folder.name.startswith("none-digits-7-")
    assert sorted(file.name for file in folder.iterdir()) == ["curve.csv", "result.json"]


def test_json_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    done = run(*SHORT, "--no-plots", "--json", "--output", str(tmp_path))
    assert json.loads(done.stdout)["steps"] == 6
    assert "steps of each worker" in done.stderr
    done = run(*SHORT, "--no-plots", "--json", "--output", str(tmp_path), "--sweep", "seed=1,2")
    assert [result["config"]["seed"] for result in json.loads(done.stdout)] == [1, 2]


def test_without_matplotlib_there_are_no_pictures_but_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run(*SHORT, "--output", str(tmp_path))
    assert done.exit_code == 0
    assert "pip install 'p2p-elastic[plots]'" in done.output


def test_options_from_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "simulation.toml"
    file.write_text('workers = 8\nperiod = 4\n"moving-rate" = 0.25\nsweep = ["seed=1,2"]\nno-plots = true\n')
    job = load_job(file, {"workers": "2", "probability": "1/8"})
    assert (job.base.workers, job.base.period, job.base.probability, job.base.moving_rate) == (2, None, 0.125, 0.25)
    assert job.settings.no_plots
    assert [config.seed for config in job.configs] == [1, 2]


# ---------------------------------------------------------------- sweeps


def test_a_sweep_given_again_computes_nothing_twice(tmp_path: Path) -> None:
    sweep = [*SHORT, "--output", str(tmp_path), "--sweep", "rule=elastic-gossip,none", "--sweep", "seed=1,2"]
    first = run(*sweep)
    assert first.exit_code == 0
    assert "Run 4 of 4: rule=none seed=2\n" in first.output
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert len(times) == 4
    again = run(*sweep, "--sweep", "lr=0.01", "--no-plots")
    assert "finished before" not in again.output
    again = run(*sweep)
    assert again.output.count("(finished before)") == 4
    assert times.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}.items()
    assert "4 of 4 runs finished" in (tmp_path / "summary.md").read_text()
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 5
    assert (tmp_path / "accuracy-steps.png").is_file()


def test_the_same_sweep_has_the_same_folder_and_another_another() -> None:
    one, same, other = (load_job(None, {"sweep": (text,)}) for text in ("seed=1,2", "seed=1,2,3", "lr=1,2"))
    assert one.folder == same.folder != other.folder
    assert load_job(None, {"sweep": ("seed=1,2",), "workers": 8}).folder != one.folder


def test_options_need_to_be_possible_together_with_what_is_swept_only() -> None:
    job = load_job(None, {"groups": "2", "sweep": ("rule=lsgd", "period=8,16")})
    assert [config.period for config in job.configs] == [8, 16]


def test_in_pictures_seeds_look_alike_and_two_options_are_told_by_style_and_colour() -> None:
    job = load_job(None, {"sweep": ("rule=none,lsgd", "period=1,2", "seed=1,2")})
    series = sweep_series(job.keys, [made_up(config) for config in job.configs])
    assert [(one.label, one.style, one.colour) for one in series[::2]] == [
        ("rule=none period=1", 0, 0),
        ("rule=none period=2", 0, 1),
        ("rule=lsgd period=1", 1, 0),
        ("rule=lsgd period=2", 1, 1),
    ]
    assert series[0].label == series[1].label


def test_ctrl_c_in_a_sweep_keeps_what_is_finished(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [
            *(sys.executable, "-c", "from p2p_elastic.cli.simulate import simulate; simulate()"),
            *("--threads", "1", "--device", "cpu", "--output", str(tmp_path), "--no-plots", "--workers", "2"),
            *("--sweep", "steps=1,1000000", "--evaluate-steps", "1000000"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("Run 2 of 2"):
            break
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    rest, _ = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "The same command goes on with what is missing." in rest
    assert [path.parent.name for path in tmp_path.glob("*/result.json")] == [
        digest(build({"steps": 1, "workers": 2, "evaluate_steps": 1_000_000}))
    ]
    assert "1 of 2 runs finished" in (tmp_path / "summary.md").read_text()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "gossip"], "rule: got 'gossip'; allowed: elastic-gossip"),
        (["--task", "mnits"], "task: got 'mnits'; allowed: "),
        (["--workers", "0"], "workers: got '0'; greater than or equal to 1"),
        (["--workers", "x"], "workers: got 'x'; a valid integer"),
        (["--steps", "1", "--epochs", "1"], "steps/epochs: got (1, 1); give one of the two"),
        (["--groups", "2"], "groups: got 2; only rule lsgd has groups"),
        (["--drop", "2"], "drop: got '2'; less than or equal to 1"),
        (["--moving-rate", "1.5"], "moving-rate: got 1.5; a number from 0"),
        (["--device", "tpu"], "device: got 'tpu'; 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--threads", "0"], "threads: got '0'; greater than or equal to 1"),
        (["--sweep", "seed"], "sweep: got 'seed'; KEY=V1,V2"),
        (["--sweep", "seeds=1"], "seeds: got '1'; no such option; there are: batch-size"),
        (["--sweep", "seed=1,2", "--seed", "3"], "seed: got '3'; it is in --sweep as well"),
        (["--config", "nowhere.toml"], "config: got 'nowhere.toml'; cannot be read"),
        (["--output", "/proc/nowhere"], "output: got '/proc/nowhere'; cannot be written"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = run(*arguments, "--no-plots")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"p2p-elastic: error: {message}")
    assert done.stderr.count("\n") == 1


def test_an_unknown_option_in_a_file_is_an_error_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("wrokers = 3\n")
    done = run("--config", str(tmp_path / "c.toml"))
    assert done.exit_code == 2
    assert "wrokers: got 3; no such option; there are: batch-size, " in done.stderr
    assert ", sweep, " in done.stderr


# ---------------------------------------------------------------- the screen


def test_lines_come_now_and_then_with_what_is_left() -> None:
    now, out = [0.0], io.StringIO()
    progress = LineProgress(Console(file=out, width=120), lambda: now[0])
    point = made_up().points[0]
    for step in range(1, 13):
        now[0] += 1.0
        progress(step, 20, point if step == 3 else None)
    progress.close()
    assert out.getvalue().splitlines() == [
        "step 6/20, accuracy 60.00 %, 4 exchanges, 14 s left",
        "step 11/20, accuracy 60.00 %, 4 exchanges, 9 s left",
    ]
    assert progress.steps == 20


def test_the_bar_shows_steps_accuracy_and_exchanges_and_is_gone_at_the_end() -> None:
    out = io.StringIO()
    progress = BarProgress(Console(file=out, force_terminal=True, width=120), "elastic-gossip")
    progress(1, 20, made_up().points[0])
    progress.close()
    assert "1/20" in out.getvalue()
    assert "60.00 %" in out.getvalue()


def test_tables_show_what_there_is() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120)
    many = made_up(build({"rule": "lsgd", "workers": 20})).model_copy(
        update={"leaders": {0: 3}, "faults": {"crash": 1}}
    )
    console.print(outcome_table(many), outcome_table(made_up(points=0)), outcome_table(made_up(centre_accuracy=0.5)))
    for expected in ("3, 0, 0", "and 4 more", "injected: crash", "test accuracy of the centre", "61.00 % to 80.00 %"):
        assert expected in out.getvalue()
    console.print(sweep_table(("seed",), [made_up(points=i % 2) for i in range(50)], 60))
    assert "50 of 60 runs finished; the last 40 of them, the files have all" in out.getvalue()
