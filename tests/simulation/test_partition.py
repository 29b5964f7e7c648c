"""A swarm that is split and heals: noticed, said, and merged without a jump; the production peer in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import pytest
import torch
from helpers.statuses import status_of
from helpers.swarm import Member, build_member, centre_at, run_members, tiny_model, values
from sklearn.datasets import load_digits
from torch import Tensor, nn

from p2p_elastic.health.checks import judge
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.centre.variable import Centre
from p2p_elastic.protocol.messages import Stamp
from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.rules.methods import find_method
from p2p_elastic.rules.policy import Policy, WeightingName, rule_of
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.rules.trial import Trial
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

NAMES = "abcdef"
CUT, HEALED, STEP = 5.0, 15.0, 0.05  # seconds; peers announce every second


def policy(name: str = "elastic-gossip", weighting: WeightingName = "fixed", probability: float = 1 / 8) -> Policy:
    method = find_method(name)
    rule = rule_of(method, method.moving_rate, weighting)
    return Policy(rule, Schedule(probability=probability), method.topology, method.flow, weighting=weighting)


def split(side: Collection[str], *, start: float = CUT, end: float = HEALED) -> SimulatedNetwork:
    """A network that cuts `side` off from the others, directory included, for a while."""

    def verdict(event: Event) -> Verdict:
        crosses = event.kind != "announce" and (event.source in side) != (event.target in side)
        return Verdict("cut") if crosses and start <= event.now < end else Verdict()

    return SimulatedNetwork(judge=verdict)


def build(network: SimulatedNetwork, name: str, **options: object) -> Member:
    options = {"policy": policy(), "events": EventLog(lambda: 0.0), "step_seconds": STEP, **options}
    return build_member(network, name, seed=ord(name[0]), **options)  # type: ignore[arg-type]


def run(members: list[Member], at: dict[float, Callable[[], None]], *, steps: int = 600) -> None:
    """Let them train, looking in at some moments."""

    async def looking() -> None:
        for moment, look in sorted(at.items()):
            await asyncio.sleep(moment - asyncio.get_running_loop().time())
            look()

    async def main() -> None:
        watching = asyncio.ensure_future(looking())
        await run_members(members, steps=steps)
        await watching

    run_virtual(main())


def reasons(member: Member) -> set[str]:
    return {reason.code for reason in judge(status_of(partition=member.peer.partition())).reasons}


def told(member: Member, kind: str) -> list[str]:
    return [event.text for event in member.peer.events.since(0) if event.kind == kind]


def means(members: list[Member]) -> list[float]:
    return [float(values(m.model).mean()) for m in members]


def spread(members: list[Member]) -> float:
    """The consensus distance: of the peers to their mean."""
    rows = torch.stack([values(m.model) for m in members])
    return float((rows - rows.mean(dim=0)).norm(dim=1).mean())


def drifting(members: list[Member], drift: Callable[[str], float]) -> None:
    for member in members:
        by = drift(member.peer.peer)
        member.on_step = lambda model, by=by: _shift(model, by)


def _shift(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def fill(model: nn.Module, value: float) -> None:
    ParameterVector(model).load_(torch.full_like(values(model), value))


# ---------------------------------------------------------------- noticed and said


@pytest.mark.parametrize("side", ["abc", "ab", "a"])
def test_a_partition_is_noticed_said_and_over_soon_after_it_heals(side: str) -> None:
    network = split(side)
    members = [build(network, name) for name in NAMES]
    seen: dict[float, list[bool]] = {}

    def look(moment: float) -> Callable[[], None]:
        return lambda: seen.update({moment: ["partitioned" in reasons(m) for m in members]})

    before, during, late, after = CUT - 0.1, CUT + 4.5, HEALED - 0.1, HEALED + 2.0
    run(members, {moment: look(moment) for moment in (before, during, late, after)})
    noticing = [name in side or len(side) > 1 for name in NAMES]  # one of six that vanishes is a crash to the others
    assert seen == {before: [False] * 6, during: noticing, late: noticing, after: [False] * 6}
    assert network.faults["cut"] > 10
    assert [len(told(m, "partition")) for m in members] == noticing
    assert [len(told(m, "healed")) for m in members] == noticing
    assert [m.steps for m in members] == [600] * 6


def test_what_is_said_has_the_numbers() -> None:
    members = [build(network, name) for network in [split("abc")] for name in NAMES]
    said = []
    run(members, {HEALED - 0.1: lambda: said.append(members[0].peer.partition())})
    (status,) = said
    assert status is not None
    assert (status.lost, status.before, status.away, status.left) == (3, 5, 3, 2)
    assert status.seconds == pytest.approx(HEALED - CUT, abs=2.0)
    assert status.steps == pytest.approx((HEALED - CUT) / STEP, abs=40)
    (reason,) = judge(status_of(partition=status)).reasons
    assert reason.text.startswith("3 of 5 members vanished together")


def test_members_that_say_goodbye_are_no_partition() -> None:
    network = SimulatedNetwork()
    members = [build(network, name) for name in NAMES]

    def leave() -> None:
        leaving.extend(asyncio.ensure_future(member.peer.leave(1.0)) for member in members[3:])

    leaving: list[asyncio.Future[None]] = []
    run(members, {CUT: leave})
    assert [told(m, "partition") for m in members[:3]] == [[]] * 3
    assert leaving


# ---------------------------------------------------------------- merging


def apart_of(members: list[Member], names: str) -> list[bool]:
    """Whether they still say to each other that they were apart."""
    pairs = [(m, other) for m in members if m.peer.peer in names for other in NAMES if other not in names]
    stakes = [m.peer.parts.own.apart_from(other) for m, other in pairs]
    return [stake is not None and stake.merge for stake in stakes]


@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gossip-push"])
def test_after_it_heals_the_halves_agree_as_if_nothing_had_been(rule: str) -> None:
    found: dict[str, list[float]] = {}
    for name, network in (("split", split("abc")), ("whole", SimulatedNetwork())):
        members = [build(network, n, policy=policy(rule)) for n in NAMES]
        drifting(members, lambda n: 0.0025 if n in "abc" else -0.0025)
        distances = found[name] = []
        look = lambda members=members, distances=distances: distances.append(spread(members))  # noqa: E731
        run(members, {moment: look for moment in (HEALED - 0.1, *(HEALED + 6.0 + n / 5 for n in range(40)))})
    apart, *healed = found["split"]
    together, *usual = found["whole"]
    assert apart > 5 * together
    assert sum(healed) < 1.5 * sum(usual)


@pytest.mark.parametrize(("side", "fast"), [("abc", 2), ("abc", 1), ("ab", 1), ("a", 1), ("a", 2)])
def test_each_side_counts_by_its_peers_times_its_steps(side: str, fast: int) -> None:
    network = split(side)
    members = [build(network, n, step_seconds=STEP / (fast if n in side else 1)) for n in NAMES]
    at_healing = []

    def part() -> None:
        for member in members:  # what each side learnt
            fill(member.model, 1.0 if member.peer.peer in side else 0.0)
        at_healing.extend(means(members))

    run(members, {CUT + 5.0: part}, steps=800)
    ours, others = len(side) * fast, 6 - len(side)
    agreed = means(members)
    assert max(agreed) - min(agreed) < 0.01
    assert sum(agreed) / 6 == pytest.approx(ours / (ours + others), abs=0.05 if fast == 1 else 0.1)


def test_a_peer_that_slept_meanwhile_moves_to_the_others() -> None:
    members = [build(network, name) for network in [split("a")] for name in NAMES]
    alone = members[0]
    alone.on_step = lambda _model: None

    def sleep() -> None:
        alone.stopped = True
        for member in members:
            fill(member.model, 1.0 if member is alone else 0.0)

    def wake() -> None:
        alone.stopped = False

    run(members, {CUT: sleep, HEALED: wake})
    assert max(means(members)) < 0.03


def test_each_pair_merges_once_and_a_failed_exchange_is_no_reason() -> None:
    network = split("abc")
    members = [build(network, name) for name in NAMES]
    merging: list[bool] = []
    lossy = SimulatedNetwork(
        judge=lambda event: Verdict("cut" if event.kind == "open" and event.number == 0 else "pass")
    )
    run(members, {HEALED + 14.0: lambda: merging.extend(apart_of(members, "abc"))})
    assert merging == [False] * 9
    failing = [build(lossy, name) for name in "ab"]
    said: list[object] = []
    run(failing, {10.0: lambda: said.append(failing[0].peer.parts.own.apart_from("b"))}, steps=600)
    assert said == [None]
    assert failing[0].peer.exchanges().by_outcome[Outcome.UNREACHABLE] > 3


def test_the_same_seed_gives_the_same_bits() -> None:
    ends = []
    for _ in range(2):
        members = [build(network, name) for network in [split("ab")] for name in NAMES]
        drifting(members, lambda n: 0.0025 if n in "ab" else -0.0025)
        run(members, {}, steps=500)
        ends.append(torch.stack([values(m.model) for m in members]))
    assert torch.equal(*ends)


# ---------------------------------------------------------------- without a jump


def two_valleys(vector: Tensor) -> float:
    """Lowest at 1 and at -1, with a hill of 1 between them."""
    return float((vector.square() - 1.0).square().mean())


async def examine(theirs: Tensor, mine: Tensor) -> Trial:
    return Trial(two_valleys(theirs), two_valleys(mine), 0.001)


@pytest.mark.parametrize(
    ("side", "wins", "rule"),
    [
        ("abcd", 1.0, "elastic-gossip"),
        ("ab", -1.0, "elastic-gossip"),
        ("abc", None, "elastic-gossip"),
        ("abcd", 1.0, "gossip-pull"),
        ("abcd", 1.0, "gossip-push"),
    ],
)
def test_across_a_barrier_the_lighter_side_copies_and_nobody_is_ever_in_the_middle(
    side: str, wins: float | None, rule: str
) -> None:
    network = split(side)
    members = [build(network, n, policy=policy(rule, "dynamic"), model=tiny_model(0)) for n in NAMES]
    highest = 0.0

    def learn(model: nn.Module, valley: float) -> None:
        nonlocal highest
        if asyncio.get_running_loop().time() < HEALED:
            fill(model, valley)  # what each side learns without the other
        highest = max(highest, two_valleys(values(model)))

    for member in members:
        valley = 1.0 if member.peer.peer in side else -1.0
        member.on_step = lambda model, valley=valley: learn(model, valley)
        member.peer.examine_with(examine)
    run(members, {}, steps=800)
    agreed = means(members)
    assert highest < 0.1
    assert max(agreed) - min(agreed) < 0.05
    if wins is not None:
        assert agreed[0] == pytest.approx(wins, abs=0.05)


def test_without_trials_halves_meet_at_the_mean() -> None:
    members = [build(network, name) for network in [split("abc")] for name in NAMES]
    drifting(members, lambda n: 0.0025 if n in "abc" else -0.0025)
    distance: list[float] = []
    run(members, {HEALED - 0.1: lambda: distance.append(abs(means(members)[0] - means(members)[5]))})
    assert distance[0] > 0.5
    agreed = means(members)
    assert max(agreed) - min(agreed) < 0.2 * distance[0]  # they go on learning different things
    assert abs(sum(agreed)) / 6 < 0.1  # neither side's


# ---------------------------------------------------------------- the centre variable


class Meeting:
    """Six peers with a centre variable, split and healed; each side learns its own number until then."""

    def __init__(self, side: str, *, cut_handover: bool = False) -> None:
        network = split(side)
        plain, self.cut_handover = network.judge, cut_handover
        network.judge = lambda event: Verdict("cut") if self._is_handover(event) else plain(event)
        schedule = Schedule(period=4)
        easgd = policy("easgd")._replace(schedule=schedule)
        self.members = [build(network, n, policy=easgd, newcomer=n != "a", model=tiny_model(0)) for n in NAMES]
        self.side, self.given_up = side, False
        self.holders = set[str | None]()  # after it healed, before anybody left
        for member in self.members:
            member.on_step = lambda model, number=float(member.peer.peer in side): self._learn(model, number)
        self.old = centre_at(self.members[0].peer)

    def _learn(self, model: nn.Module, number: float) -> None:
        if asyncio.get_running_loop().time() < HEALED:
            fill(model, number)

    def _is_handover(self, event: Event) -> bool:
        centre = self.old
        return self.cut_handover and centre.given is not None and event.source == "a"

    async def watch(self) -> None:
        while asyncio.get_running_loop().time() < HEALED + 10.0:
            await asyncio.sleep(0.001)
            self.given_up |= self.old.given is not None
        self.holders = {centre.holder for m in self.members if (centre := m.peer.centre()) is not None}

    def run(self) -> None:
        async def main() -> None:
            watching = asyncio.ensure_future(self.watch())
            await run_members(self.members, steps=600)
            await watching

        run_virtual(main())


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float, float]]:
    """(before, given up, share, after) of each centre that was taken in."""
    found, original = [], Centre.take_in

    def take_in(centre: Centre, peer: str, stamp: Stamp, share: float) -> float:
        before, given = float(centre.value.mean()), float(centre.vectors.theirs.mean())
        distance = original(centre, peer, stamp, share)
        found.append((before, given, share, float(centre.value.mean())))
        return distance

    monkeypatch.setattr(Centre, "take_in", take_in)
    return found


@pytest.mark.parametrize(("side", "least", "most"), [("abc", 0.3, 0.7), ("abcd", 0.5, 0.9), ("ab", 0.1, 0.5)])
def test_two_centres_merge_by_the_exchanges_behind_each_since_the_split(
    side: str, least: float, most: float, inherited: list[tuple[float, float, float, float]]
) -> None:
    meeting = Meeting(side)
    meeting.run()
    ((before, given, share, after),) = inherited
    assert before < 0.1
    assert given > 0.9
    assert least < share < most
    assert after == pytest.approx(before + share * (given - before), abs=1e-5)
    (holder,) = meeting.holders
    assert holder is not None
    assert holder not in side
    assert all(m.steps == 600 for m in meeting.members)


def test_a_centre_whose_last_word_never_arrives_steps_down_all_the_same(
    inherited: list[tuple[float, float, float, float]],
) -> None:
    meeting = Meeting("abc", cut_handover=True)
    meeting.run()
    assert not inherited
    assert meeting.given_up
    assert meeting.old is not None
    assert meeting.old.given is None
    assert not meeting.old.seated
    assert meeting.members[0].peer.exchanges().by_outcome[Outcome.UNREACHABLE] >= 5


# ---------------------------------------------------------------- something to learn


@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_the_loss_does_not_jump_when_two_halves_that_learnt_apart_merge(weighting: WeightingName) -> None:
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16.0
    labels = torch.tensor(digits.target)
    network, losses = split("abc"), dict[str, list[float]]()

    def loss_of(vector: Tensor, rows: Tensor) -> Tensor:
        outputs = inputs[rows] @ vector[:640].view(10, 64).T + vector[640:]
        return nn.functional.cross_entropy(outputs, labels[rows], reduction="none")

    everything = torch.arange(len(labels))

    def member_of(place: int, name: str) -> Member:
        model = nn.Linear(64, 10)
        fill(model, 0.0)
        rows = everything[place::6]  # each its own part
        drawn = torch.Generator().manual_seed(place)

        def learn(model: nn.Module) -> None:
            batch = rows[torch.randint(len(rows), (32,), generator=drawn)]
            model.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.3 * parameter.grad
            losses.setdefault(name, []).append(float(loss_of(values(model), everything).mean()))

        async def examine(theirs: Tensor, mine: Tensor) -> Trial:
            batch = rows[torch.randint(len(rows), (32,), generator=drawn)]
            both = [loss_of(vector, batch).view(8, 4).mean(dim=1) for vector in (theirs, mine)]
            return Trial.of(*both)

        member = build(network, name, policy=policy(weighting=weighting), model=model)
        member.on_step = learn
        member.peer.examine_with(examine)
        return member

    members = [member_of(place, name) for place, name in enumerate(NAMES)]
    run(members, {}, steps=600)
    healed = int(HEALED / STEP)
    before = max(max(curve[healed - 20 : healed]) for curve in losses.values())
    after = max(max(curve[healed : healed + 100]) for curve in losses.values())
    assert after < 1.05 * before
    assert max(curve[-1] for curve in losses.values()) < before
