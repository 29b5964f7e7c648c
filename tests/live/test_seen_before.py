"""Real processes: a peer whose initial peer is gone finds the run through the peers that were seen there before."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from helpers.running import START_SECONDS, members

from p2p_elastic.demo.processes import Swarm


def test_a_newcomer_whose_initial_peer_is_gone_joins_through_peers_seen_before(swarm: Swarm, tmp_path: Path) -> None:
    founder = swarm.start("founder", ["--epochs", "1000"])
    swarm.listen_until(lambda: "listening" in founder.said, "the founder", START_SECONDS)
    address = founder.said["listening"]["addresses"][0]
    join = ["--initial-peer", address, "--epochs", "1000"]
    stays = swarm.start("stays", join)
    swarm.listen_until(lambda: members(stays) == 1 and members(founder) == 1, "joining", START_SECONDS)

    founder.child.send_signal(signal.SIGTERM)  # what it knows is saved at its end at the latest
    swarm.listen_until(founder.ended_well, "the founder's end", 30.0)
    swarm.processes.remove(founder)
    [file] = (tmp_path / "state" / "p2p-elastic" / "peers").iterdir()
    known = {one["peer"] for one in json.loads(file.read_text())["peers"]}
    assert stays.said["listening"]["peer"] in known

    late = swarm.start("late", join)
    swarm.listen_until(lambda: members(late) >= 1 and members(stays) >= 1, "joining", START_SECONDS)
    assert "seen before" in late.said["remembered"]["text"]
    assert late.said["joined"]["manifest"] == stays.said["joined"]["manifest"]
