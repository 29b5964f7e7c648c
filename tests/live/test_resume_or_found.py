"""Real processes, with the same command at each start: no restart makes a second run."""

from __future__ import annotations

from pathlib import Path

from helpers.running import START_SECONDS, kill, members

from p2p_elastic.demo.processes import Swarm


def test_a_founder_that_is_killed_and_started_by_the_same_command_founds_no_second_run(
    swarm: Swarm, tmp_path: Path
) -> None:
    key = ["--identity", str(tmp_path / "peer.key")]
    command = ["--task", "digits", "--epochs", "100000", "--resume-or-found", *key]  # saved every five minutes
    founder = swarm.start("founder", command)
    swarm.listen_until(lambda: "founded" in founder.said, "the founder", START_SECONDS)
    manifest = founder.said["founded"]["manifest"]
    join = ["--initial-peer", founder.said["listening"]["addresses"][0], "--epochs", "100000"]
    other = swarm.start("other", join)
    swarm.listen_until(lambda: members(founder) == 1 and members(other) == 1, "joining", START_SECONDS)
    seen = tmp_path / "state" / "p2p-elastic" / "peers" / f"{manifest['run']}.json"
    swarm.listen_until(lambda: seen.exists() and other.said["listening"]["peer"] in seen.read_text(), "notes", 30.0)
    kill(swarm, founder)

    back = swarm.start("founder", command)  # others live
    swarm.listen_until(lambda: members(back) == 1 and members(other) == 1, "coming back", START_SECONDS)
    assert back.said["resumed"]["manifest"] == other.said["joined"]["manifest"] == manifest
    kill(swarm, back)

    beside = swarm.start("beside", ["--task", "digits", *key])  # without the option, and without its folder
    swarm.processes.remove(beside)
    assert beside.child.wait(START_SECONDS) == 2
    assert f"was in run '{manifest['run']}', which is alive" in (beside.folder / "stderr.log").read_text()

    elsewhere = swarm.start("elsewhere", command)  # its folder is lost: it joins its run again
    swarm.listen_until(lambda: members(elsewhere) == 1, "joining again", START_SECONDS)
    assert elsewhere.said["joined"]["manifest"] == manifest
    for process in (elsewhere, other):
        kill(swarm, process)

    alone = swarm.start("founder", command)  # nobody lives
    swarm.listen_until(lambda: alone.last.get("step", 0) > 0, "training", START_SECONDS)
    assert alone.said["resumed"]["manifest"] == manifest
    assert "founded" not in alone.said


def test_a_run_that_is_complete_is_not_begun_again(swarm: Swarm) -> None:
    command = ["--task", "digits", "--steps", "50", "--resume-or-found"]
    swarm.start("peer", command)
    swarm.listen_until(swarm.all_ended, "the end", START_SECONDS)
    again = swarm.start("peer", command)
    swarm.processes.remove(again)
    assert again.child.wait(START_SECONDS) == 0
    swarm.listen_until(lambda: "is complete" in again.said.get("complete", {}).get("text", ""), "its word", 30.0)
