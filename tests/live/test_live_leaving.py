"""A real peer gets SIGTERM: it hands over, says goodbye, and the others know before its record is gone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
from safetensors.torch import load_file

from p2p_elastic.processes import Process, Swarm

START_SECONDS = 120.0  # loading PyTorch on a busy machine


def completed(process: Process) -> int:
    return int(process.last.get("exchanges", {}).get("by_outcome", {}).get("completed", 0))


def told(process: Process) -> list[dict[str, object]]:
    """What its window says happened to members, oldest first."""
    answer = httpx.get(process.said["listening"]["http"] + "/v1/events?once=true", timeout=10.0)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [event for event in map(json.loads, lines) if event.get("kind") in ("joined", "left")]


def test_the_others_hear_of_it_from_the_leaver_itself_and_have_its_last_parameters(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        together = ["--task", "digits", "--rule", "elastic-gossip", "--epochs", "100000", "--probability", "0.01"]
        founder = swarm.start("founder", [*together, "--wait-for-peers", "2"])
        swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
        address = founder.said["listening"]["addresses"][0]
        leaver, stays = (swarm.start(n, ["--initial-peer", address, "--epochs", "100000"]) for n in ("leaver", "stays"))
        everybody = [founder, leaver, stays]
        swarm.listen_until(lambda: all(completed(p) >= 2 for p in everybody), "exchanging", START_SECONDS)
        swarm.listen_until(lambda: all(p.last["members"] == 2 for p in everybody), "knowing each other", START_SECONDS)
        peer = leaver.said["listening"]["peer"]

        leaver.child.send_signal(signal.SIGTERM)
        swarm.listen_until(lambda: "left" in leaver.said, "leaving", 10.0)
        # The leaver is still there, evaluating: that it is gone, the others know from itself.
        for process in (founder, stays):
            assert [e["data"]["peer"] for e in told(process) if e["kind"] == "left"] == [peer]  # type: ignore[index]
        swarm.listen_until(lambda: leaver.ended_well(), "ending", 10.0)
        farewell = leaver.summary()["farewell"]
        others = {p.said["listening"]["peer"] for p in (founder, stays)}
        assert farewell["handed_to"] in others if farewell["reason"] is None else farewell["handed_to"] is None
        assert (farewell["told"], farewell["members"], farewell["withdrawn"]) == (2, 2, True)
        assert "said goodbye to 2 of 2 members" in leaver.said["left"]["text"]
        assert len(load_file(leaver.folder / "model.safetensors")) == 6
