"""A real peer is stopped: it hands over, says goodbye, and the others know before its record is gone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from helpers.daemons import daemons_of
from helpers.forking import launch
from helpers.running import START_SECONDS, centre, completed
from live_chaos.lives import RESTING
from safetensors.torch import load_file

from p2p_elastic.demo.processes import Process, Swarm


def told(process: Process) -> list[dict[str, object]]:
    """What its window says happened to members, oldest first."""
    answer = httpx.get(process.said["listening"]["http"] + "/v1/events?once=true", timeout=10.0)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [event for event in map(json.loads, lines) if event.get("kind") in ("joined", "left")]


def stop_as_a_service_is_stopped(process: Process) -> list[psutil.Process]:
    """Every process of it is told, and p2pd first: as systemd does, or a terminal that is closed. Gives p2pd."""
    daemons = daemons_of(process.child.pid)
    for daemon in daemons:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            daemon.send_signal(number)
    os.killpg(process.child.pid, signal.SIGTERM)
    return daemons


@pytest.mark.parametrize("leaves", ["a pair's", "the centre"])
def test_the_others_hear_of_it_from_the_leaver_itself_and_have_what_it_learnt(tmp_path: Path, leaves: str) -> None:
    rule = {"a pair's": "elastic-gossip", "the centre": "easgd"}[leaves]
    with Swarm(tmp_path, RESTING, launch) as swarm:
        together = ["--task", "digits", "--rule", rule, "--epochs", "100000", "--probability", "0.01"]
        founder = swarm.start("founder", [*together, "--wait-for-peers", "2"])
        swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
        address = founder.said["listening"]["addresses"][0]
        others = [swarm.start(n, ["--initial-peer", address, "--epochs", "100000"]) for n in ("one", "another")]
        everybody = [founder, *others]
        swarm.listen_until(lambda: all(completed(p) >= 2 for p in everybody), "exchanging", START_SECONDS)
        swarm.listen_until(lambda: all(p.last["members"] == 2 for p in everybody), "knowing each other", START_SECONDS)
        leaver = founder if leaves == "the centre" else others[0]
        stay = [process for process in everybody if process is not leaver]
        peer = leaver.said["listening"]["peer"]

        daemons = stop_as_a_service_is_stopped(leaver)
        assert daemons
        swarm.listen_until(lambda: "left" in leaver.said, "leaving", 10.0)
        # The leaver is still there, evaluating: that it is gone, the others know from itself.
        for process in stay:
            assert [e["data"]["peer"] for e in told(process) if e["kind"] == "left"] == [peer]  # type: ignore[index]
        swarm.listen_until(lambda: leaver.ended_well(), "ending", 10.0)
        assert psutil.wait_procs(daemons, timeout=5.0)[1] == []
        assert "libp2p" not in (leaver.folder / "stderr.log").read_text()  # such as that it was started again
        farewell = leaver.summary()["farewell"]
        heirs = {p.said["listening"]["peer"] for p in stay}
        if leaves == "the centre":
            assert farewell["centre_to"] in heirs
            swarm.listen_until(lambda: any(centre(p).get("here") for p in stay), "a new centre", 10.0)
        else:
            assert farewell["handed_to"] in heirs if farewell["reason"] is None else farewell["handed_to"] is None
        assert (farewell["told"], farewell["members"], farewell["withdrawn"]) == (2, 2, True)
        assert "said goodbye to 2 of 2 members" in leaver.said["left"]["text"]
        assert len(load_file(leaver.folder / "model.safetensors")) == 6
