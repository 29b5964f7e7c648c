"""What exchanging costs a peer that trains: the same loop alone and with exchanges, in turns.

If the system allows it (Linux, two cores or more), the training thread has a core of its own, and all the rest, the
network threads, both p2pd and the other process, share the others: as on a machine with a core to spare.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from p2p_elastic.bench.figures import Spread, machine, quantile, ratio
from p2p_elastic.bench.live import LivePeer, Setup, mlp
from p2p_elastic.bench.process import PeerProcess
from p2p_elastic.training.attach import attach
from p2p_elastic.training.optimizers import SGD

STEP_SECONDS = 0.015  # length of a step: the batch is chosen for it
WARM_UP_STEPS = 20
BATCH_MAX = 4096


@dataclass(frozen=True)
class OverheadOptions:
    """What is measured: each size, with each period.

    Attributes:
        megabytes: sizes of the model in float32, in millions of bytes.
        periods: steps between exchanges.
        codec: how parameters travel.
        weighting: `dynamic` keeps a second vector.
        seconds: length of each window.
        windows: of each kind: alone, and exchanging.
    """

    megabytes: tuple[float, ...] = (1.0, 12.0, 48.0)
    periods: tuple[int, ...] = (8, 32, 128)
    codec: str = "none"
    weighting: Literal["fixed", "dynamic"] = "fixed"
    seconds: float = 6.0
    windows: int = 5


class Loop:
    """A training loop: an MLP, SGD with momentum, made-up data. Its batch is chosen so that a step takes STEP_SECONDS.

    Args:
        megabytes: size of the model in float32, about.
        seed: of parameters and data.

    Attributes:
        width: of the layers.
        model: the MLP.
        optimizer: SGD with momentum 0.9.
        loss: of the last step.
    """

    def __init__(self, megabytes: float, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.width = max(16, int((megabytes * 1e6 / 4 / 3) ** 0.5))
        self.model = mlp(self.width)
        self.optimizer = SGD(self.model.parameters(), lr=1e-4, momentum=0.9, foreach=True)
        self._batch = 8
        self.loss = 1.0
        self._choose_batch()

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def _choose_batch(self) -> None:
        """Double the batch until a step takes about STEP_SECONDS."""
        while True:
            self._data = torch.randn(self._batch, self.width)
            seconds = statistics.median(self._timed() for _ in range(5))
            if seconds > 0.7 * STEP_SECONDS or self._batch >= BATCH_MAX:
                return
            self._batch *= 2

    def _timed(self) -> float:
        began = time.perf_counter()
        self.step()
        return time.perf_counter() - began

    def step(self) -> None:
        """Make one step."""
        self.optimizer.zero_grad()
        loss: Tensor = self.model(self._data).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss = float(loss.detach())

    def steps_for(self, seconds: float) -> list[float]:
        """Train for some time.

        Args:
            seconds: to train.

        Returns:
            Seconds of each step, from the end of the one before.
        """
        took, end = list[float](), time.perf_counter() + seconds
        last = time.perf_counter()
        while last < end:
            self.step()
            now = time.perf_counter()
            took.append(now - last)
            last = now
        return took


def run(options: OverheadOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the loop alone and with exchanges, in turns.

    Args:
        options: what is measured.
        say: told what is measured next.

    Returns:
        Figures for JSON and for the table: a row for each combination.
    """
    torch.set_num_threads(1)
    rows = []
    for megabytes in options.megabytes:
        for period in options.periods:
            say(f"{megabytes:g} MB, every {period} steps")
            rows.append(_row(options, megabytes, period))
    return {"bench": "overhead", "machine": machine(), "own_core": _cores() is not None, "rows": rows}


def _row(options: OverheadOptions, megabytes: float, period: int) -> dict[str, Any]:
    loop = Loop(megabytes)
    size = loop.nbytes / 1e6
    setup = Setup(size, None, options.codec, weighting=options.weighting, width=loop.width)
    with _others_on_other_cores() as pin, PeerProcess(setup) as partner:
        mine = replace(setup, period=period).joining(partner.address)
        with LivePeer(mine, loop.model) as live, pin():
            _yield_to_this_process(partner.pids)
            live.wait_for_partner()
            live.peer.report_loss(1.0)
            loop.steps_for(WARM_UP_STEPS * STEP_SECONDS)
            alone, exchanging, before = list[list[float]](), list[list[float]](), live.peer.exchanges()
            for _ in range(options.windows):
                alone.append(loop.steps_for(options.seconds))
                with attach(live.peer, loop.optimizer):
                    exchanging.append(loop.steps_for(options.seconds))
                live.settle()
            after = live.peer.exchanges()
    return figures(size, period, alone, exchanging, _completed(after) - _completed(before))


def _completed(totals: Any) -> int:
    return sum(count for outcome, count in totals.by_outcome.items() if outcome.value == "completed")


def figures(
    size: float, period: int, alone: list[list[float]], exchanging: list[list[float]], exchanges: int
) -> dict[str, Any]:
    """Compare windows in which the loop exchanged with those in which it was alone.

    Args:
        size: of the model, in millions of bytes.
        period: steps between exchanges.
        alone: seconds of each step, by window.
        exchanging: likewise; each window is compared with the one of `alone` before it.
        exchanges: that completed, in all windows.

    Returns:
        A row of the table, for JSON.
    """
    steps = {name: list(itertools.chain(*w)) for name, w in (("exchanging", exchanging), ("alone", alone))}
    speeds = [[len(window) / sum(window) for window in windows] for windows in (exchanging, alone)]
    return {
        "megabytes": size,
        "period": period,
        "exchanges": exchanges,
        "exchanges_due": sum(len(window) for window in exchanging) // period,
        "steps_per_second": {"exchanging": Spread.of(speeds[0]), "alone": Spread.of(speeds[1])},
        "throughput": ratio(speeds[0], speeds[1]),
        "step_ms": {
            name: {"median": 1e3 * statistics.median(took), "p99": 1e3 * quantile(took, 0.99)}
            for name, took in steps.items()
        },
        "p99_ratio": ratio([quantile(w, 0.99) for w in exchanging], [quantile(w, 0.99) for w in alone]),
    }


def _yield_to_this_process(pids: Iterable[int]) -> None:
    """Let these processes run only when this process's threads leave a core to them.

    Two machines share no cores; here the partner and its p2pd would push the network threads of this process off
    theirs, at times while these hold Python's lock, for which training waits.
    """
    for pid in pids:
        with contextlib.suppress(OSError):  # not Linux, or over
            for thread in os.listdir(f"/proc/{pid}/task"):  # on Linux each has its own; new ones take it over
                os.setpriority(os.PRIO_PROCESS, int(thread), 19)


# -- cores -------------------------------------------------------------------------------------------------------------


def _cores() -> list[int] | None:
    """List the cores that this process may use; None if there is only one, or they cannot be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores if len(cores) > 1 else None


@contextlib.contextmanager
def _others_on_other_cores() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Run what is started inside on all cores but the first; gives what puts this thread alone onto the first."""
    cores = _cores()
    if cores is None:
        yield contextlib.nullcontext
        return
    os.sched_setaffinity(0, cores[1:])  # threads and processes that are started take that over

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        os.sched_setaffinity(0, cores[:1])
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores[1:])

    try:
        yield alone
    finally:
        os.sched_setaffinity(0, cores)
