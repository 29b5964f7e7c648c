"""What fewer bytes cost: fewer bits, fewer parts, or the change since what both ends of a pair know from each other.

    python benchmarks/studies/known.py --task digits [--seeds 3] [--steps 200] [--workers 4] [--data-dir DIR]
        [--batch-size N] [ARM ...]

Elastic Gossip, simulated. An arm is a codec, with the number of fragments after a colon ("int8:8"), or how a difference
travels, the number of references that a worker has room for, and the codec that they are kept in: "int4@7:int8",
"top8@2:none". "top8" sends the 8 largest of every 256 elements: index, value in int8, a float32 scale for all 8.

A reference is the mean of what two ends sent each other in their last exchange. Both can compute it, bit for bit, and
name it by that exchange. What is sent is the difference to it, so what was left out of the last difference is in the
next one: error feedback without a vector of its own. Who has no room drops the reference of the partner that it has not
met for longest; then, and at first, the two send int8.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from p2p_elastic.protocol.blocks import FLOAT32_BYTES
from p2p_elastic.protocol.codecs import CODECS
from p2p_elastic.simulator import run as running
from p2p_elastic.simulator.options import build
from p2p_elastic.simulator.rounds import Pairs, Received
from p2p_elastic.tasks import Data, find_task

ARMS = (
    *("none", "int8", "int4", "int8:2", "int8:8", "int8:16", "int4:8"),
    *("int4@7:int8", "int4@2:none", "top26@7:int8", "top8@7:int8", "top8@2:none"),
)
DENSE = "int8"
GROUP = 256  # elements, of which the largest travel: an index is one byte
HEAD = "| arm | MB sent | loss | against none | workers | accuracy | distance | known |"


def arrived(how: str, values: Tensor) -> tuple[Tensor, int]:
    """What arrives of values, and the bytes that it takes."""
    if how in CODECS:
        there, codec = values.clone(), CODECS[how]
        codec.encode(there, torch.empty(codec.nbytes(len(there)), dtype=torch.uint8))
        return there, codec.nbytes(len(there))
    count = int(how.removeprefix("top"))
    groups = functional.pad(values, (0, -len(values) % GROUP)).view(-1, GROUP)
    chosen = groups.abs().topk(count, dim=1).indices
    largest = groups.gather(1, chosen)
    scales = largest.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    sent = torch.zeros_like(groups).scatter_(1, chosen, (largest / scales).round() * scales)
    return sent.view(-1)[: len(values)], len(groups) * (FLOAT32_BYTES + 2 * count)


class Known(Pairs):
    """Pairs that send the difference to what both ends know."""

    how: str
    room: int
    kept: str

    def remember(self, how: str, room: int, kept: str) -> None:
        """How differences travel, of how many partners a row has a reference, and the codec that it is kept in."""
        self.how, self.room, self.kept = how, room, kept
        self.references: dict[frozenset[int], Tensor] = {}  # those not used for longest first
        self.known = self.met = 0

    def _sent(self, flat: Tensor, asker: int, asked: int, *, back: bool) -> list[Received]:
        assert back, "both ends send"
        pair = frozenset((asker, asked))
        reference = self.references.pop(pair, None)
        how = DENSE if reference is None else self.how
        base = torch.zeros_like(flat[0]) if reference is None else reference
        (of_asker, there), (of_asked, here) = (arrived(how, flat[row] - base) for row in (asker, asked))
        self.met, self.known = self.met + 1, self.known + (reference is not None)
        self.traffic.worker_bytes += there + here
        self.references[pair] = arrived(self.kept, base + (of_asker + of_asked) / 2)[0]
        for row in (asker, asked):
            of_row = [one for one in self.references if row in one]
            for oldest in of_row[: max(0, len(of_row) - self.room)]:
                del self.references[oldest]
        whole = slice(0, flat.shape[1])
        return [Received(asker, asked, whole, base + of_asked), Received(asked, asker, whole, base + of_asker)]

    def _count(self, part: slice, *, workers: int = 0, centre: int = 0) -> None:
        self.traffic.exchanges += 1


def simulate(arm: str, seed: int, data: Data, given: dict[str, Any]) -> dict[str, float]:
    """One simulation: losses and bytes at its end."""
    how, _, memory = arm.partition("@")
    codec, _, fragments = how.partition(":")
    options = {**given, "seed": seed, "codec": "none" if memory else codec, "fragment": int(fragments or 1)}
    simulation = running._Simulation(build(options), data, torch.device("cpu"), "auto", running.build_round)
    pairs: Any = simulation._round
    if memory:
        pairs.__class__ = Known
        room, _, kept = memory.partition(":")
        pairs.remember(how, int(room), kept)
    torch.manual_seed(seed)  # for dropout
    last = simulation.run(time.monotonic, lambda *_: None, lambda: False).points[-1]
    loss, accuracy = last.metrics["loss"], last.metrics.get("accuracy")
    return {
        "bytes": last.bytes_per_worker,
        "loss": loss.average,
        "workers": statistics.mean(loss.workers),
        "accuracy": accuracy.average if accuracy else float("nan"),
        "distance": last.consensus_distance,
        "known": pairs.known / max(1, pairs.met) if memory else float("nan"),
    }


def rows(arms: list[str], seeds: int, data: Data, given: dict[str, Any]) -> Iterator[str]:
    """A row of the table for each arm."""
    plain: list[dict[str, float]] = []
    for arm in arms:
        found = [simulate(arm, seed, data, given) for seed in range(1, seeds + 1)]
        plain = plain or found

        def mean(key: str, found: list[dict[str, float]] = found) -> float:
            return statistics.mean(one[key] for one in found)

        gains = [one["loss"] - other["loss"] for one, other in zip(found, plain, strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        yield (
            f"| {arm} | {mean('bytes') / 1e6:.2f} | {mean('loss'):.4f} | {statistics.mean(gains):+.4f} ± {error:.4f} "
            f"| {mean('workers'):.4f} | {100 * mean('accuracy'):.2f} | {mean('distance'):.3f} | {mean('known'):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", default=ARMS, help="the first one is what others are compared with")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--period", type=int, default=8)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--data-dir", type=Path, help="where MNIST is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {name: getattr(options, name) for name in ("task", "steps", "workers", "period")}
    given |= {"evaluate_steps": options.steps} | ({"batch_size": options.batch_size} if options.batch_size else {})
    print(f"{HEAD}\n{'|---' * 8}|", flush=True)
    for row in rows(list(options.arms), options.seeds, find_task(options.task).load(options.data_dir), given):
        print(row, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
