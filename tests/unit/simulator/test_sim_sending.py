"""What travels in a simulated exchange: through a codec, in parts, and counted as it would be on the wire."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.chunks import Outgoing, Vectors
from p2p_elastic.protocol.codecs import CODECS, seams_within
from p2p_elastic.protocol.framing import CHUNK_ELEMENTS, CHUNK_HEADER
from p2p_elastic.rules.dynamic import dynamic
from p2p_elastic.rules.methods import RULES, Flow
from p2p_elastic.rules.pairwise import elastic, follow, receive
from p2p_elastic.simulator.assembly import build_round
from p2p_elastic.simulator.centre import Centre, CentreTogether
from p2p_elastic.simulator.config import SimulationConfig, SimulationResult
from p2p_elastic.simulator.leader import Leader
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.rounds import Moves, Pairs
from p2p_elastic.simulator.run import simulate
from p2p_elastic.simulator.sending import Wire
from p2p_elastic.tasks import find_task

WORKERS, ELEMENTS = 4, 300
every_codec = pytest.mark.parametrize("name", CODECS)
every_lossy_codec = pytest.mark.parametrize("name", sorted(set(CODECS) - {"none"}))
IN_PARTS = ["elastic-gossip", "gossip-pull", "gossip-push", "easgd", "eamsgd", "easgd-sync"]


def rows(seed: int = 0) -> Tensor:
    return torch.randn(WORKERS, ELEMENTS, generator=torch.Generator().manual_seed(seed))


def round_trip(name: str, vector: Tensor) -> Tensor:
    arrived = vector.clone()
    CODECS[name].encode(arrived, torch.empty(CODECS[name].nbytes(len(vector)), dtype=torch.uint8))
    return arrived


def total(moves: Moves) -> Tensor:
    return torch.stack(list(moves.values())).double().sum(dim=0)


def run(**options: Any) -> SimulationResult:
    config = build({"workers": 3, "steps": 8, "period": 2, "batch_size": 16, **options})
    return simulate(config, find_task("digits").load(None), "cpu", clock=lambda: 0.0)


# ---------------------------------------------------------------- codecs


@every_codec
def test_both_ends_difference_what_was_sent(name: str) -> None:
    flat = rows()
    moves = Pairs(elastic(0.25), flat, wire=Wire(CODECS[name])).exchange(flat, [(0, 1)])
    a, b = (round_trip(name, flat[row]) for row in (0, 1))
    assert torch.equal(moves[0], 0.25 * (b - a))
    assert torch.equal(moves[1], -moves[0])


@every_lossy_codec
def test_who_alone_moves_differences_to_its_own_vector_as_it_is(name: str) -> None:
    flat = rows()
    pulled = Pairs(follow(0.5), flat, flow=Flow.PULL, wire=Wire(CODECS[name])).exchange(flat, [(0, 1)])
    pushed = Pairs(receive(0.5), flat, flow=Flow.PUSH, wire=Wire(CODECS[name])).exchange(flat, [(0, 1), (2, 1)])
    assert torch.equal(pulled[0], 0.5 * (round_trip(name, flat[1]) - flat[0]))
    first = 0.5 * (round_trip(name, flat[0]) - flat[1])
    second = 0.5 * (round_trip(name, flat[2]) - flat[1] - first)
    assert torch.allclose(pushed[1], first + second, atol=1e-6)


@every_lossy_codec
@pytest.mark.parametrize("kind", [Centre, CentreTogether])
def test_what_workers_and_centre_move_adds_up_to_nothing(name: str, kind: type[Centre]) -> None:
    flat = rows()
    round_ = kind(elastic(0.2), flat, wire=Wire(CODECS[name], 3))
    centre = round_.centre.clone()
    moves = round_.moves(flat, range(WORKERS), range(WORKERS), 1)
    assert torch.allclose(round_.centre.double() - centre, -total(moves), atol=1e-6)
    assert not torch.equal(moves[1], 0.2 * (centre - flat[1]))


def test_a_centre_is_met_as_it_arrives() -> None:
    flat = rows()
    round_ = Centre(elastic(0.2), flat, wire=Wire(CODECS["int8"]))
    centre = round_.centre.clone()
    moves = round_.moves(flat, [2], range(WORKERS), 1)
    assert torch.equal(moves[2], 0.2 * (round_trip("int8", centre) - round_trip("int8", flat[2])))
    assert torch.equal(round_.centre, centre - moves[2])


def test_a_leader_is_followed_as_it_arrives() -> None:
    flat = rows()
    before = flat.clone()
    round_ = Leader(follow(0.5), flat, wire=Wire(CODECS["int8"]))
    round_.settle_(flat, range(WORKERS), range(WORKERS), 1, [0.3, 0.1, 0.2, 0.4])
    assert torch.equal(flat[1], before[1])
    assert torch.equal(flat[0], before[0] + 0.5 * (round_trip("int8", before[1]) - before[0]))
    assert round_.traffic.worker_bytes == 3 * CODECS["int8"].nbytes(ELEMENTS)


def test_vectors_longer_than_a_chunk_arrive_as_a_whole_would() -> None:
    vector = torch.randn(CHUNK_ELEMENTS + 200, generator=torch.Generator().manual_seed(1))
    before = vector.clone()
    assert torch.equal(Wire(CODECS["int8"]).sent(0, vector, slice(None)), round_trip("int8", vector))
    assert torch.equal(vector, before), "one's own parameters are not rounded"


def test_a_part_of_a_simulated_vector_arrives_as_live_peers_send_it() -> None:
    """In the same chunks, and with the same seams."""
    vector, seams = torch.randn(2 * CHUNK_ELEMENTS, generator=torch.Generator().manual_seed(1)), (0, 700, 760, 66_000)
    wire = Wire(CODECS["int8"], 2, seams)
    for part in (wire.part(0, len(vector)), slice(500, 70_000)):
        sent = Vectors(vector[part].clone(), vector[part], "int8", seams=seams_within(seams, part.start, part.stop))
        outgoing = Outgoing(sent)
        for _ in outgoing.pieces():
            pass
        assert torch.equal(wire.sent(0, vector, part), sent.mine)
        assert wire.nbytes(part) == outgoing.nbytes - outgoing.sent * CHUNK_HEADER.size


@every_codec
@pytest.mark.parametrize("rule", ["elastic-gossip", "gossip-pull", "gossip-push", "gosgd", "easgd", "easgd-sync"])
def test_bytes_are_those_on_the_wire(name: str, rule: str) -> None:
    flat, method = rows(), RULES[rule]
    round_ = build_round(SimulationConfig(rule=rule, workers=WORKERS, codec=name), flat)
    round_.moves(flat, [1], range(WORKERS), 1)
    vectors = 2 if rule == "elastic-gossip" else 1
    assert round_.traffic.worker_bytes == vectors * CODECS[name].nbytes(ELEMENTS)
    centre = method.topology.value.startswith("centre")
    assert round_.traffic.centre_bytes == (CODECS[name].nbytes(ELEMENTS) if centre else 0)


# ---------------------------------------------------------------- fragments


def test_fragments_that_differ_much_in_size_are_no_lag() -> None:
    flat, rate = torch.zeros(1, 4, dtype=torch.float64), 0.225
    round_ = Centre(dynamic(elastic(rate)), flat, wire=Wire(fragments=4))
    for step in range(40):
        flat[0] = round_.centre + torch.tensor([1.0, 0.01, 0.01, 100.0])  # as far as ever
        before, distance = round_.centre.clone(), flat[0] - round_.centre
        moved = round_.moves(flat, [0], [0], step)[0]
        part = moved != 0
        assert part.sum() == 1
        torch.testing.assert_close(moved[part], -rate * distance[part])
        torch.testing.assert_close(round_.centre - before, -moved, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("rule", IN_PARTS)
def test_each_exchange_is_about_the_next_part(rule: str) -> None:
    flat = rows()
    round_ = build_round(SimulationConfig(rule=rule, workers=WORKERS, fragment=3), flat)
    if round_.centre is not None:
        round_.centre.zero_()
    touched = torch.zeros(ELEMENTS)
    for _ in range(3):
        moved = next(iter(round_.moves(flat, [1], [1, 2], 1).values())).ne(0)
        assert moved.sum() == ELEMENTS // 3
        touched += moved
    assert touched.eq(1).all()
    assert round_.traffic.worker_bytes == (2 if rule == "elastic-gossip" else 1) * ELEMENTS * 4


def test_the_first_part_is_drawn_for_each_worker() -> None:
    def firsts(seed: int) -> list[int]:
        wire = Wire(fragments=8, seed=seed)
        return [wire.part(row, 80).start // 10 for row in range(64)]

    assert set(firsts(1)) == set(range(8))
    assert firsts(1) == firsts(1) != firsts(2)


def test_parts_are_as_equal_as_can_be() -> None:
    wire = Wire(fragments=4)
    parts = sorted((wire.part(0, 10) for _ in range(4)), key=lambda part: part.start)
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 5), (5, 7), (7, 10)]
    with pytest.raises(ConfigError, match=r"fragment: got 301; at most one per element of the model \(300\)"):
        build_round(SimulationConfig(workers=WORKERS, fragment=301), rows())


def test_moves_of_different_parts_add_up() -> None:
    flat = rows()
    wire = Wire(fragments=2)
    moves = Pairs(elastic(0.25), flat, wire=wire, partners=2).exchange(flat, [(0, 1), (0, 2)])
    halves = {part.start: part for part in (wire.part(0, ELEMENTS), wire.part(0, ELEMENTS))}
    first, second = halves.values()
    assert torch.equal(moves[0][first], 0.25 * (flat[1] - flat[0])[first])
    assert torch.equal(moves[0][second], 0.25 * (flat[2] - flat[0])[second])
    assert torch.equal(moves[1] + moves[2], -moves[0])


# ---------------------------------------------------------------- whole simulations


def test_a_topology_that_only_live_peers_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = SimpleNamespace(value="ring", among_members=True)
    monkeypatch.setitem(RULES, "elastic-gossip", RULES["elastic-gossip"]._replace(topology=ring))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rule: got 'elastic-gossip'; the simulator does not have the topology ring"):
        build_round(SimulationConfig(workers=WORKERS), rows())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codec": "gzip"}, "codec: got 'gzip'; allowed: none, float16, bfloat16, int8"),
        ({"codec": "int8", "rule": "all-reduce"}, "codec: got 'int8'; none: "),
        ({"codec": "int8", "rule": "downpour"}, "codec: got 'int8'; none: "),
        ({"codec": "int8", "rule": "none"}, "codec: got 'int8'; none: "),
        ({"fragment": 0}, "fragment: got 0; greater than or equal to 1"),
        ({"fragment": 2, "rule": "gosgd"}, "fragment: got 2; 1: the sum weights of rule gosgd are of whole models"),
        ({"fragment": 2, "rule": "lsgd"}, "fragment: got 2; 1: with rule lsgd a leader is followed whole"),
        ({"fragment": 2, "rule": "mvadownpour"}, "fragment: got 2; 1: rule mvadownpour does not exchange parameters"),
    ],
)
def test_what_cannot_be_says_why(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(given)


@pytest.mark.parametrize("rule", [*IN_PARTS, "gosgd", "lsgd"])
@pytest.mark.parametrize("weighting", ["fixed", "dynamic"])
def test_every_rule_trains_with_a_codec_and_repeats(rule: str, weighting: str) -> None:
    options = {"rule": rule, "weighting": weighting, "codec": "int8", "fragment": 4 if rule in IN_PARTS else 1}
    first, again, plain = run(**options), run(**options), run(rule=rule, weighting=weighting)
    assert first == again
    assert all(math.isfinite(p.consensus_distance) for p in first.points)
    parts = options["fragment"]
    assert first.points[-1].bytes_per_worker < 0.26 / parts * plain.points[-1].bytes_per_worker + 64


def test_int8_learns_what_float32_does() -> None:
    plain, rounded = (run(steps=200, workers=4, batch_size=32, codec=codec) for codec in ("none", "int8"))
    assert abs(plain.points[-1].accuracy - rounded.points[-1].accuracy) < 0.01
    assert plain.points[-1].exchanges == rounded.points[-1].exchanges
