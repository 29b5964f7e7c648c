"""What `docker/` has to watch a swarm with, and a real Prometheus that uses it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
ALERTS, ALERTS_TEST, CONFIG = DOCKER / "alerts.yaml", DOCKER / "alerts_test.yaml", DOCKER / "prometheus.yaml"
COMPOSE, DASHBOARD = DOCKER / "compose.yaml", DOCKER / "grafana" / "dashboards" / "swarm.json"
PROGRAMS = ("prometheus", "promtool")
ASK_SECONDS = 10.0


class Query(NamedTuple):
    """One query of the dashboard."""

    panel: str
    expression: str


def why_not() -> str | None:
    """Why nothing can be tried with a real Prometheus here; None if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (apt-get install prometheus)" if missing else None


def rules() -> list[dict[str, Any]]:
    """The alerts, as they are in the file."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, without the headings of its rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """All queries of the dashboard."""
    return [Query(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def names(expression: str) -> set[str]:
    """The metrics of peers in an expression."""
    return set(re.findall(r"\b(?:p2p_elastic|process)_\w+", re.sub(r'"[^"]*"', "", expression)))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Prometheus:
    """A Prometheus that scrapes peers and judges the alerts of `docker/`.

    Args:
        url: of its pages.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=ASK_SECONDS):
                return True
        except OSError:
            return False

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The samples of an expression, now or at a time. Raises ValueError, in Prometheus' words, if it is wrong."""
        asked = urllib.parse.urlencode({"query": expression, **({} if at is None else {"time": at})})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{asked}", timeout=ASK_SECONDS) as answer:
                samples: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from error
        return samples

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now: name and instance, which is empty if it is about all."""
        found = (sample["metric"] for sample in self.query('ALERTS{alertstate="firing"}'))
        return {(labels["alertname"], labels.get("instance", "")) for labels in found}


@contextlib.contextmanager
def prometheus(
    folder: Path, jobs: Mapping[str, Sequence[str]], *, alerts: Path = ALERTS, scrape: str = "2s"
) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration of `docker/`, but with targets and times of its own.

    Args:
        folder: for its data.
        jobs: targets of each job.
        alerts: the rules.
        scrape: time between scrapes, and between looks at the rules.

    Yields:
        The Prometheus, which may not be ready yet.
    """
    config = yaml.safe_load(CONFIG.read_text())
    (job,) = config["scrape_configs"]
    config["global"] = {"scrape_interval": scrape, "evaluation_interval": scrape, "scrape_timeout": scrape}
    config["rule_files"] = [str(alerts)]
    config["scrape_configs"] = [
        {**job, "job_name": name, "static_configs": [{"targets": list(targets)}]} for name, targets in jobs.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        child = subprocess.Popen(["prometheus", *arguments, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://{address}")
    finally:
        child.terminate()
        child.wait()
