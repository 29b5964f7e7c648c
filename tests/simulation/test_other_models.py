"""Two models or two versions in one run: each member hears in what others differ. Only another model ends exchanges."""

from __future__ import annotations

from helpers.statuses import status_of
from helpers.swarm import Member, build_member, run_members, tiny_model

from p2p_elastic.health.versions import versions_differ
from p2p_elastic.peers.state.views import other_models_of
from p2p_elastic.protocol.messages import PROTOCOL_VERSION
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.protocol.software import Software
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

OLD, NEW = Software(version="0.1.0", protocol=PROTOCOL_VERSION), Software(version="0.2.0", protocol=PROTOCOL_VERSION)
RUNS = {"a": OLD, "b": OLD, "c": NEW}
WIDTHS = {"a": 8, "b": 8, "c": 9, "d": 9}


def halfway(member: Member) -> dict[str, dict[str, str | None]]:
    """What it says of the others after half of its steps."""
    found = {o.peer: o.difference for o in other_models_of(member.peer.parts)}
    return {member.peer.peer: found} if member.steps == 500 else {}


def test_members_of_another_model_are_named_with_the_first_difference_and_asked_once() -> None:
    crossing: list[str] = []

    def judge(event: Event) -> Verdict:
        """The first stream to the other kind is cut."""
        if event.kind != "open" or WIDTHS[event.source] == WIDTHS[event.target]:
            return Verdict()
        crossing.append(event.source)
        return Verdict("cut") if len(crossing) == 1 else Verdict()

    network = SimulatedNetwork(judge=judge)
    members = [
        build_member(network, name, model=tiny_model(i, width), seed=i, events=EventLog(lambda: 0.0))
        for i, (name, width) in enumerate(WIDTHS.items())
    ]
    seen: dict[str, dict[str, str | None]] = {}
    for member in members:  # while all are there
        member.on_step = lambda _model, one=member: seen.update(halfway(one))  # type: ignore[misc]
    run_virtual(run_members(members, steps=1000))
    assert network.faults["cut"] == 1
    assert len(crossing) == len(members) + 1  # the one whose stream was cut asked another peer
    for member in members:
        here, name = WIDTHS[member.peer.peer], member.peer.peer
        there = 17 - here
        others = [other for other, width in WIDTHS.items() if width == there]
        assert seen[name] == dict.fromkeys(others, f"weight is [{here}, {here}] here and [{there}, {there}] there")
        assert member.peer.exchanges().by_outcome[Outcome.COMPLETED] > 20
        assert not member.peer.exchanges().declined_by_us.get("other-schema")
        assert not set(others) & {m.peer for m in member.peer.members()}


def differing_at(member: Member, runs: Software) -> str | None:
    status = status_of(version=runs.version, protocol=runs.protocol, members=member.peer.members())
    return versions_differ(status)


def test_each_member_says_once_who_runs_another_version_and_exchanges_with_it() -> None:
    network, logs = SimulatedNetwork(), {name: EventLog(lambda: 0.0) for name in RUNS}
    members = {
        name: build_member(network, name, seed=seed, events=logs[name], software=RUNS[name])
        for seed, name in enumerate(RUNS)
    }
    shown: dict[str, str | None] = {}
    for name, member in members.items():

        def look(_model: object, name: str = name, member: Member = member) -> None:
            if member.steps == 500:  # while all are there
                shown[name] = differing_at(member, RUNS[name])

        member.on_step = look
    run_virtual(run_members(list(members.values()), steps=1000))
    for name, member in members.items():
        said = [event.text for event in logs[name].since(0) if "different versions" in event.text]
        assert len(said) == 1
        version, where = ("0.1.0", "a, b") if name == "c" else ("0.2.0", "c")
        others = f"{version} (protocol {PROTOCOL_VERSION}) at {where}"
        assert others in str(shown[name])
        assert f"{RUNS[name].version} (protocol {PROTOCOL_VERSION}) here" in said[0]
        assert member.peer.exchanges().by_outcome[Outcome.COMPLETED] > 20
