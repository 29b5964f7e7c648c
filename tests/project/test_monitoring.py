"""What watches a swarm names metrics that there are. A real Prometheus tries it in tests/monitoring."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from monitoring.prometheus import ALERTS_TEST, COMPOSE, CONFIG, DOCKER, names, panels, queries, rules

ROOT = Path(__file__).resolve().parents[2]


def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_alerts_and_dashboard_name_only_metrics_that_a_peer_has() -> None:
    known = set(re.findall(r"\| `((?:p2p_elastic|process)_\w+)` \|", generated().metrics()))
    used = {
        name
        for expression in [*(q.expression for q in queries()), *(r["expr"] for r in rules())]
        for name in names(expression)
    }
    assert len(used) > 20
    assert used <= known


def test_every_alert_says_what_is_wrong_what_to_do_and_how_urgent_it_is() -> None:
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["for"], rule["alert"]


def test_every_alert_has_a_test_in_which_it_fires_and_a_moment_at_which_none_does() -> None:
    tests = yaml.safe_load(ALERTS_TEST.read_text())["tests"]
    for rule in rules():
        of_rule = [test for test in tests if re.match(rf"{rule['alert']}\b", test["name"])]
        assert of_rule, rule["alert"]
        for test in of_rule:
            samples = [one.get("exp_samples", []) for one in test["promql_expr_test"]]
            assert [] in samples, rule["alert"]
            assert f'alertname="{rule["alert"]}"' in str(samples), rule["alert"]


def test_panels_have_titles_of_their_own_units_and_queries() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    assert all(panel["targets"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels())


def test_the_peers_of_the_compose_file_are_those_that_prometheus_scrapes_by_a_name_that_they_answer_to() -> None:
    peers = {name: service for name, service in services().items() if "build" in service}
    (job,) = yaml.safe_load(CONFIG.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{name}:8870" for name in peers]}]
    for name, service in peers.items():
        said = " ".join((*service.get("entrypoint", ()), *service["command"]))
        assert f"--http-allow-host {name}" in said or said.endswith(f'--http-allow-host "$$0" {name}')


def test_every_file_that_the_compose_file_mounts_is_there_and_no_window_is_open_to_other_machines() -> None:
    for service in services().values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DOCKER / source).exists(), source
        assert all(port.startswith("127.0.0.1:") for port in service["ports"] if port != "31330-31331:31330-31331")
