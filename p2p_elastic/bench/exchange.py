"""One exchange between two real processes, against a bare libp2p stream that moves the same bytes both ways."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from p2p_elastic.bench.delay import DelayProxy
from p2p_elastic.bench.figures import Spread, cpu_seconds, machine, quantile, ratio
from p2p_elastic.bench.live import LivePeer, Setup, model_of
from p2p_elastic.bench.partner import Partner

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
    torch.set_num_threads(1)
    rows = []
    for megabytes in options.megabytes:
        for codec in options.codecs:
            for streams in options.streams:
                say(f"{megabytes:g} MB, {codec}, streams {streams or 'auto'}")
                rows.append(_row(options, megabytes, codec, streams))
    return {"bench": "exchange", "machine": machine(), "rtt_ms": options.rtt_ms, "rows": rows}


@contextlib.contextmanager
def ends(
    options: ExchangeOptions, megabytes: float, codec: str, streams: int | None
) -> Iterator[tuple[LivePeer, Partner]]:
    """A peer here that asks, and one in another process that answers; with a delay between them, where asked for."""
    with contextlib.ExitStack() as stack:
        setup = Setup(megabytes, None, codec, options.fragments, streams, options.weighting)
        theirs, mine = setup, setup.over(None, period=1)
        if options.rtt_ms > 0.0:
            proxies = [stack.enter_context(DelayProxy(options.rtt_ms / 2000.0)) for _ in range(2)]
            theirs, mine = (one.over(proxy) for one, proxy in zip((theirs, mine), proxies, strict=True))
        partner = stack.enter_context(Partner(theirs))
        live = stack.enter_context(LivePeer(mine.joining(partner.address), model_of(megabytes, 1.0)))
        live.wait_for_partner()
        live.peer.report_loss(1.0)
        yield live, partner


def _row(options: ExchangeOptions, megabytes: float, codec: str, streams: int | None) -> dict[str, Any]:
    with ends(options, megabytes, codec, streams) as (live, partner):
        pids, nbytes = (*live.pids, *partner.pids), round(megabytes * 1e6)
        for end in (live.forget_peak, lambda: partner.ask("forget")):
            end()
        for _ in range(WARM_UP):
            live.exchange()
        ours = [_measured(pids, live.exchange) for _ in range(options.rounds)]
        extra = live.extra_models(), partner.ask("memory")  # before the bare stream takes its own
        live.bare.swap(partner.peer, nbytes)
        pairs = [
            (_measured(pids, live.exchange), _measured(pids, lambda: live.bare.swap(partner.peer, nbytes)))
            for _ in range(options.rounds)
        ]
        sent = live.peer.last_exchanges()[0].bytes_sent
    ours += [pair[0] for pair in pairs]
    bare = [pair[1] for pair in pairs]
    return {
        "megabytes": megabytes,
        "codec": codec,
        "streams": streams or "auto",
        "fragments": options.fragments,
        "weighting": options.weighting,
        "megabytes_sent_each_way": sent / 1e6,
        "ours": summary(ours),
        "bare": summary(bare),
        "ours_to_bare": ratio([pair[0].seconds for pair in pairs], bare_seconds := [b.seconds for b in bare]),
        "p90_seconds": {"ours": quantile([s.seconds for s in ours], 0.9), "bare": quantile(bare_seconds, 0.9)},
        "extra_models": {"asking": extra[0], "answering": extra[1]},
    }


def _measured(pids: Sequence[int], work: Callable[[], float]) -> Sample:
    before = sum(map(cpu_seconds, pids))
    seconds = work()
    return Sample(seconds, sum(map(cpu_seconds, pids)) - before)


def summary(samples: Sequence[Sample]) -> dict[str, Spread]:
    """Seconds and CPU seconds of all four processes."""
    return {"seconds": Spread.of([s.seconds for s in samples]), "cpu_seconds": Spread.of([s.cpu for s in samples])}
