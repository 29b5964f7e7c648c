"""One exchange between two real processes, against a bare libp2p stream that moves the same bytes both ways."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from p2p_elastic.bench.delay import DelayProxy
from p2p_elastic.bench.figures import Spread, cpu_seconds, machine, ratio
from p2p_elastic.bench.live import Setup
from p2p_elastic.bench.process import PeerProcess

WARM_UP = 2


@dataclass(frozen=True)
class ExchangeOptions:
    """What is measured: each size, by each codec, over each number of streams (None: as the peer chooses)."""

    megabytes: tuple[float, ...] = (4.0, 100.0, 400.0)
    codecs: tuple[str, ...] = ("none", "float16")
    streams: tuple[int | None, ...] = (None,)
    fragments: int = 1
    weighting: Literal["fixed", "dynamic"] = "fixed"
    rounds: int = 9
    rtt_ms: float = 0.0


class Sample(NamedTuple):
    """One exchange, or one swap of the bare stream: wall seconds, and CPU seconds of all four processes together."""

    seconds: float
    cpu: float


def run(options: ExchangeOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all of it; `say` hears how far it is."""
    rows = []
    for megabytes in options.megabytes:
        for codec in options.codecs:
            for streams in options.streams:
                say(f"{megabytes:g} MB, {codec}, streams {streams or 'auto'}")
                rows.append(_row(options, megabytes, codec, streams))
    return {"bench": "exchange", "machine": machine(), "rtt_ms": options.rtt_ms, "rows": rows}


class Ends:
    """Two peers in processes of their own: one that asks, one that answers."""

    def __init__(self, asking: PeerProcess, answering: PeerProcess) -> None:
        self.asking, self.answering = asking, answering
        self._pids = (*asking.pids, *answering.pids)

    def exchange(self) -> Sample:
        """One exchange."""
        return self._measured("exchange")

    def swap(self, nbytes: int) -> Sample:
        """So many bytes each way over a bare stream."""
        return self._measured(f"swap {self.answering.peer} {nbytes}")

    def _measured(self, what: str) -> Sample:
        before = sum(map(cpu_seconds, self._pids))
        seconds = float(self.asking.ask(what))
        return Sample(seconds, sum(map(cpu_seconds, self._pids)) - before)

    def memory(self) -> dict[str, float | None]:
        """The most that each held beyond its model while it exchanged a few times, in model sizes."""
        for end in (self.asking, self.answering):
            end.ask("forget")
        for _ in range(WARM_UP):
            self.exchange()
        return {"asking": self.asking.ask("memory"), "answering": self.answering.ask("memory")}


@contextlib.contextmanager
def ends(options: ExchangeOptions, megabytes: float, codec: str, streams: int | None) -> Iterator[Ends]:
    """Two peers that have met; with a delay between them, where asked for."""
    with contextlib.ExitStack() as stack:
        setup = Setup(megabytes, None, codec, options.fragments, streams, options.weighting)
        theirs, mine = setup, setup.over(None, period=1)
        if options.rtt_ms > 0.0:
            proxies = [stack.enter_context(DelayProxy(options.rtt_ms / 2000.0)) for _ in range(2)]
            theirs, mine = (one.over(proxy) for one, proxy in zip((theirs, mine), proxies, strict=True))
        answering = stack.enter_context(PeerProcess(theirs))
        asking = stack.enter_context(PeerProcess(mine.joining(answering.address)))
        yield Ends(asking, answering)


def _row(options: ExchangeOptions, megabytes: float, codec: str, streams: int | None) -> dict[str, Any]:
    nbytes = round(megabytes * 1e6)
    with ends(options, megabytes, codec, streams) as two:
        extra = two.memory()
        two.swap(nbytes)
        pairs = [(two.exchange(), two.swap(nbytes)) for _ in range(options.rounds)]
        sent = two.asking.ask("sent")
    ours, bare = ([pair[end] for pair in pairs] for end in (0, 1))
    seconds = [[sample.seconds for sample in samples] for samples in (ours, bare)]
    return {
        "megabytes": megabytes,
        "codec": codec,
        "streams": streams or "auto",
        "fragments": options.fragments,
        "weighting": options.weighting,
        "megabytes_sent_each_way": sent / 1e6,
        "ours": summary(ours),
        "bare": summary(bare),
        "ours_to_bare": ratio(*seconds),
        "extra_models": extra,
    }


def summary(samples: Sequence[Sample]) -> dict[str, Spread]:
    """Seconds and CPU seconds of all four processes."""
    return {"seconds": Spread.of([s.seconds for s in samples]), "cpu_seconds": Spread.of([s.cpu for s in samples])}
