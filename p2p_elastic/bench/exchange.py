"""One exchange between two real processes, against a bare libp2p stream that moves the same bytes both ways."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from p2p_elastic.bench.delay import DelayProxy
from p2p_elastic.bench.figures import Spread, cpu_seconds, machine, ratio
from p2p_elastic.bench.live import Setup
from p2p_elastic.bench.process import PeerProcess

WARM_UP = 2
TINY_MEGABYTES = 0.01


@dataclass(frozen=True)
class ExchangeOptions:
    """What is measured: each size, by each codec, over each number of streams.

    Attributes:
        megabytes: sizes of the model in float32, in millions of bytes.
        codecs: how parameters travel.
        streams: for the parameters; None lets the peer choose.
        fragments: F; an exchange moves one of F parts.
        weighting: `dynamic` keeps a second vector.
        rounds: how often each is measured.
        rtt_ms: round trip between the two peers, in milliseconds; 0 is loopback.
        direct: whether parameters may travel over direct connections.
    """

    megabytes: tuple[float, ...] = (4.0, 100.0, 400.0)
    codecs: tuple[str, ...] = ("none", "float16")
    streams: tuple[int | None, ...] = (None,)
    fragments: int = 1
    weighting: Literal["fixed", "dynamic"] = "fixed"
    rounds: int = 9
    rtt_ms: float = 0.0
    direct: bool = True


class Sample(NamedTuple):
    """One exchange, or one swap of the bare stream.

    Attributes:
        seconds: wall time.
        cpu: CPU seconds of all four processes together.
        asking: of an exchange: those of its seconds that the peer's journal counts.
    """

    seconds: float
    cpu: float
    asking: float | None = None


class Held(NamedTuple):
    """Bytes that each end held at most beyond its model; None if the system does not say.

    Attributes:
        asking: of the end that asks.
        answering: of the end that answers.
    """

    asking: float | None
    answering: float | None

    def models(self, fixed: Held, megabytes: float) -> dict[str, float | None]:
        """Convert bytes into model sizes, without what exchanges take whatever the model: threads, buffers, modules.

        Args:
            fixed: what exchanges of a tiny model take.
            megabytes: size of the model.

        Returns:
            Model sizes by end; None if the system does not say.

        Example:
            >>> Held(9e6, None).models(Held(1e6, 1e6), megabytes=4.0)
            {'asking': 2.0, 'answering': None}
        """
        pairs = zip(self._fields, self, fixed, strict=True)
        return {
            end: None if held is None or base is None else max(0.0, held - base) / (megabytes * 1e6)
            for end, held, base in pairs
        }


def run(options: ExchangeOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure exchanges and bare streams, one after the other in pairs.

    Args:
        options: what is measured.
        say: told what is measured next.

    Returns:
        Figures for JSON and for the table: a row for each combination.
    """
    rows = []
    say("what exchanges take without a model to speak of")
    fixed = fixed_memory(options)
    for megabytes in options.megabytes:
        for codec in options.codecs:
            for streams in options.streams:
                say(f"{megabytes:g} MB, {codec}, streams {streams or 'auto'}")
                rows.append(_row(options, megabytes, codec, streams, fixed))
    return {
        "bench": "exchange",
        "machine": machine(),
        "rtt_ms": options.rtt_ms,
        "fixed_megabytes": {end: None if held is None else held / 1e6 for end, held in fixed._asdict().items()},
        "rows": rows,
    }


def fixed_memory(options: ExchangeOptions) -> Held:
    """Measure what exchanges of a tiny model take.

    Args:
        options: of the benchmark; sizes, codecs, streams and delay are not used.

    Returns:
        Bytes of each end.
    """
    with ends(replace(options, rtt_ms=0.0), TINY_MEGABYTES, "none", None) as two:
        return two.memory()


class Ends:
    """Two peers in processes of their own.

    Args:
        asking: the one that asks for exchanges.
        answering: the one that answers.
    """

    def __init__(self, asking: PeerProcess, answering: PeerProcess) -> None:
        self.asking, self.answering = asking, answering
        self._pids = (*asking.pids, *answering.pids)

    def exchange(self) -> Sample:
        """Make one exchange.

        Returns:
            What it took.
        """
        return self._measured("exchange", lambda answer: answer)

    def swap(self, nbytes: int) -> Sample:
        """Send bytes each way over a bare stream.

        Args:
            nbytes: each way.

        Returns:
            What it took.
        """
        return self._measured(f"swap {self.answering.peer} {nbytes}", lambda answer: (answer, None))

    def _measured(self, what: str, times: Callable[[Any], tuple[float, float | None]]) -> Sample:
        before = sum(map(cpu_seconds, self._pids))
        seconds, asking = times(self.asking.ask(what))
        return Sample(seconds, sum(map(cpu_seconds, self._pids)) - before, asking)

    def memory(self) -> Held:
        """Measure the most that each held beyond its model while it exchanged a few times.

        Returns:
            Bytes of each end.
        """
        for end in (self.asking, self.answering):
            end.ask("forget")
        for _ in range(WARM_UP):
            self.exchange()
        return Held(self.asking.ask("memory"), self.answering.ask("memory"))


@contextlib.contextmanager
def ends(
    options: ExchangeOptions, megabytes: float, codec: str, streams: int | None, python: str = sys.executable
) -> Iterator[Ends]:
    """Start two peers, and wait until they have met.

    Args:
        python: with the build that they run.
        options: fragments, weighting and the delay between the two.
        megabytes: size of the model.
        codec: how parameters travel.
        streams: for the parameters; None lets the peer choose.

    Yields:
        The two peers.
    """
    with contextlib.ExitStack() as stack:
        setup = Setup(megabytes, None, codec, options.fragments, streams, options.weighting, direct=options.direct)
        theirs, mine = setup, replace(setup, period=1)
        if options.rtt_ms > 0.0:
            proxies = [stack.enter_context(DelayProxy(options.rtt_ms / 2000.0)) for _ in range(4)]
            theirs, mine = theirs.over(*proxies[:2]), mine.over(*proxies[2:])
        answering = stack.enter_context(PeerProcess(theirs, python))
        asking = stack.enter_context(PeerProcess(mine.joining(answering.address), python))
        yield Ends(asking, answering)


def _row(options: ExchangeOptions, megabytes: float, codec: str, streams: int | None, fixed: Held) -> dict[str, Any]:
    nbytes = round(megabytes * 1e6)
    with ends(options, megabytes, codec, streams) as two:
        held = two.memory()
        two.swap(nbytes)
        pairs = [(two.exchange(), two.swap(nbytes)) for _ in range(options.rounds)]
        last = two.asking.ask("last")
    ours, bare = ([pair[end] for pair in pairs] for end in (0, 1))
    seconds = [[sample.seconds for sample in samples] for samples in (ours, bare)]
    return {
        "megabytes": megabytes,
        "codec": codec,
        "streams": streams or "auto",
        "fragments": options.fragments,
        "weighting": options.weighting,
        "megabytes_sent_each_way": last["bytes_sent"] / 1e6,
        "way": "direct" if last["direct"] else "libp2p",
        "ours": summary(ours),
        "bare": summary(bare),
        "ours_to_bare": ratio(*seconds),
        "extra_models": held.models(fixed, megabytes),
    }


def summary(samples: Sequence[Sample]) -> dict[str, Spread]:
    """Summarise samples.

    Args:
        samples: at least one.

    Returns:
        Seconds, the ones of them from asking until the move is handed over, and CPU seconds of all processes.
    """
    found = {"seconds": Spread.of([s.seconds for s in samples]), "cpu_seconds": Spread.of([s.cpu for s in samples])}
    asking = [s.asking for s in samples if s.asking is not None]
    return {**found, "asking_seconds": Spread.of(asking)} if asking else found
