"""The parts of one peer in a simulated network: nobody trains, announces or serves unless the test does so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator
from typing import Any, TypeVar

from helpers.swarm import tiny_model
from torch import Tensor

from p2p_elastic.health.operator import Condition
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.gossip.strategy_parts import StrategyParts
from p2p_elastic.peers.membership.run_context import RunContext
from p2p_elastic.peers.session.answers import Feature, table_of
from p2p_elastic.peers.session.conversation import Conversation, Limits
from p2p_elastic.peers.session.responder import Responder
from p2p_elastic.peers.state.context import assembled
from p2p_elastic.peers.state.current_run import CurrentRun
from p2p_elastic.peers.topologies import parts_of
from p2p_elastic.protocol.chunks import Vectors
from p2p_elastic.protocol.messages import Fetch, Goodbye, Offer, Tell
from p2p_elastic.protocol.records import PeerRecord
from p2p_elastic.rules.pairwise import elastic
from p2p_elastic.rules.policy import Policy
from p2p_elastic.rules.schedule import Schedule
from p2p_elastic.status.events import EventLog
from p2p_elastic.testing.virtual_network import SimulatedNetwork

T = TypeVar("T")
GOSSIP = Policy(elastic(0.5), Schedule(period=10))
DYNAMIC = GOSSIP._replace(weighting="dynamic")
HASH, ID, ELEMENTS = ParameterVector(tiny_model(0)).schema_hash, "0" * 32, 72


def parts_in(
    network: SimulatedNetwork,
    policy: Policy = GOSSIP,
    peer: str = "a",
    *,
    limits: Limits | None = None,
    **context: Any,
) -> StrategyParts:
    """The parts of that peer; peers of different names have different models."""
    limits, events = limits or Limits(), EventLog(lambda: 0.0)
    place = RunContext(**{"run": "test", "announce_seconds": 1.0, **context})
    run = CurrentRun(peer, ParameterVector(tiny_model(ord(peer[0]))), place, policy)
    transport = network.transport(peer)
    condition, beside = Condition(lambda: 0.0, events=events), {"direct": transport.direct, "access": transport.access}
    local = assembled(run, condition, events, limits=limits, **beside)
    return parts_of(local, transport, limits, random.Random(peer))


def values_of(parts: StrategyParts) -> Tensor:
    """A copy of its model [D]."""
    return parts.local.vector.snapshot(parts.local.vector.empty())


def record(peer: str, sequence: int = 1, **facts: Any) -> PeerRecord:
    known = {"peer": peer, "run": "test", "schema_hash": HASH, "step": 10, "sequence": sequence}
    return PeerRecord.model_validate({**known, **facts})


def introduce(*peers: StrategyParts, now: float = 0.0) -> None:
    """Each sees the others."""
    records = [record(one.local.peer, **one.local.run.topology.claim()) for one in peers]
    for one in peers:
        one.local.members.look([r for r in records if r.peer != one.local.peer], now)


def step(parts: StrategyParts, *, due: bool = False) -> None:
    """One step of training, as `Peer.after_step` does it."""
    local = parts.local
    local.slot.mailbox.between_steps(
        local.own.stepped(), due=due, settle=True, published=lambda _due: parts.own.published.set()
    )
    local.slot.freed.set()


async def train(parts: StrategyParts) -> None:
    """Train, a step in 10 ms, until cancelled."""
    while True:
        step(parts)
        await asyncio.sleep(0.01)


def offer(**said: Any) -> Offer:
    known = {"id": ID, "peer": "b", "run": "test", "schema_hash": HASH, "elements": ELEMENTS, "codec": "none"}
    return Offer.model_validate({**known, "step": 1, "loss": 0.5, "weight": 1.0, **said})


def wanted(**said: Any) -> Fetch:
    known = {"id": ID, "peer": "b", "run": "test", "schema_hash": HASH, "elements": ELEMENTS, "codec": "none"}
    return Fetch.model_validate({**known, "origin": "a", **said})


def goodbye(**said: Any) -> Goodbye:
    return Goodbye.model_validate({"id": ID, "peer": "b", "run": "test", "sequence": 5, **said})


def tell(**said: Any) -> Tell:
    return Tell.model_validate({"id": ID, "peer": "b", "run": "test", "step": 1, "loss": 0.5, **said})


async def serve(parts: StrategyParts, *features: Feature) -> None:
    """Answer what these features answer, and refuse all else."""
    local = parts.local
    responder = Responder(table_of(features), parts.limits, local.members.waits_of, local.journal.streams_refused)
    await parts.transport.serve(responder.answer)


async def talk(
    network: SimulatedNetwork,
    asker: str,
    asked: str,
    exchange: Generator[Any, Any, T],
    vectors: Vectors | None = None,
) -> T:
    """What comes of that conversation. Raises ExchangeError."""
    stream = await network.transport(asker).open(record(asked))
    try:
        return await Conversation(stream, Limits()).run(exchange, vectors)
    finally:
        await stream.close()
