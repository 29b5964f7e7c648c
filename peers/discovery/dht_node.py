"""hivemind's DHT node, on the swarm's clock, with fewer bytes for what every peer does every few seconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from typing import Any, NamedTuple

from p2p_elastic.common.bounded import forget_oldest
from p2p_elastic.peers.transport.swarm_clock import SwarmClock

import p2p_elastic.peers.transport.libp2p  # noqa: F401  # isort: skip  # silences hivemind
from hivemind.dht import node as hivemind_node  # isort: skip
from hivemind.dht import protocol as hivemind_protocol, routing as hivemind_routing  # isort: skip
from hivemind.dht.node import DHTNode  # isort: skip
from hivemind.dht.routing import DHTID  # isort: skip
from hivemind.dht.storage import DictionaryDHTValue  # isort: skip
from hivemind.p2p import PeerID  # isort: skip
from hivemind.utils import MSGPackSerializer, ValueWithExpiration, auth as hivemind_auth  # isort: skip
from hivemind.utils import timed_storage as hivemind_storage  # isort: skip

PLACES_SECONDS = 30.0
KEYS_MAX = 64  # whose places are remembered
TIMED_MODULES = (hivemind_auth, hivemind_node, hivemind_protocol, hivemind_routing, hivemind_storage)
_time_elsewhere = hivemind_storage.get_dht_time  # hivemind's own


def swarm_time() -> float:
    """Tell the time that the swarm of the calling task counts.

    Returns:
        Seconds since 1970; as hivemind counts them if the task belongs to no swarm.
    """
    clock = SwarmClock.get_current()
    return float(_time_elsewhere()) if clock is None else clock.now()


def tell_hivemind_the_time() -> None:
    """Let hivemind's DHT go by the clock of each swarm; its modules have imported the machine's by name."""
    for module in TIMED_MODULES:
        module.get_dht_time = swarm_time


class Node(DHTNode):  # type: ignore[misc]  # hivemind has no types
    """A DHT node that remembers where the records of a key are, stores there without reading, and reads from one node.

    hivemind looks for the nodes nearest to a key each time that it stores something there, and each of those that it
    asks answers with all that it has under the key. Here it asks for the nodes nearest to the key beside, where nobody
    stores anything, and again only after PLACES_SECONDS or once other nodes are the nearest that are known here.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._places: dict[DHTID, _Places] = {}

    async def find_nearest_nodes(self, queries: Collection[DHTID], *arguments: Any, **options: Any) -> Any:
        """Find the nearest nodes, as hivemind does; as said above if a record is to be stored there.

        Args:
            queries: ids to be near to.
            arguments, options: hivemind's.

        Returns:
            Query -> node -> peer id, if there is no callback.
        """
        found = options.get("found_callback")
        if found is None:
            return await super().find_nearest_nodes(queries, *arguments, **options)
        for key in queries:
            nearest = await self._nearest(key)
            options["node_to_peer_id"].update(nearest)
            await found(key, list(nearest), set())
        return {}

    async def look(self, key: str, rng: random.Random) -> dict[bytes, Any]:
        """Read what one of the nodes has that the records of a key are stored at, and what is here.

        Args:
            key: where.
            rng: draws which one; if it does not answer, another one is asked.

        Returns:
            Subkey -> value and expiration.
        """
        place = DHTID.generate(source=key)
        nearest = list((await self._nearest(place)).values())
        first, spare = nearest[: self.num_replicas], nearest[self.num_replicas :]
        answers = [self.protocol.storage.get(place)]
        for peer in (*rng.sample(first, len(first)), *spare):
            if answer := await self._call_find_with_blacklist(peer, [place]):
                answers.append(answer[place][0])
                break
        found = DictionaryDHTValue()
        for entries in (answer.value for answer in answers if answer is not None):
            if isinstance(entries, DictionaryDHTValue):
                for subkey, entry in entries.items():
                    found.store(subkey, entry.value, entry.expiration_time)
        loads = MSGPackSerializer.loads
        return {s: ValueWithExpiration(loads(e.value), e.expiration_time) for s, e in found.items()}

    async def _nearest(self, key: DHTID) -> dict[DHTID, PeerID]:
        now, table = asyncio.get_running_loop().time(), self.protocol.routing_table
        known = tuple(node for node, _ in table.get_nearest_neighbors(key, self.num_replicas, exclude=self.node_id))
        places = self._places.pop(key, None)
        if places is None or places.known != known or now > places.until:
            beside, spare = DHTID(int(key) ^ 1), 2 * self.num_replicas  # some of them may not answer
            options = {"k_nearest": spare, "beam_size": spare, "exclude_self": True}
            nearest = (await super().find_nearest_nodes([beside], **options))[beside]
            places = _Places(nearest, known, now + PLACES_SECONDS)
        self._places[key] = places
        forget_oldest(self._places, KEYS_MAX)
        return places.nearest


class _Places(NamedTuple):
    """The nodes nearest to a key; those of them that were known here then; and until when that is good."""

    nearest: dict[DHTID, PeerID]
    known: tuple[DHTID, ...]
    until: float
