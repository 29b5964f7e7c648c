"""The command: seeds, in several processes where asked for, with a table at the end."""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from chaos.plan import RULES
from chaos.trial import Trial, try_seed

CHUNK = 10  # seeds that one process runs before it says so


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every seed was clean, 1 otherwise."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.ERROR, format="%(message)s")
    began = time.monotonic()
    trials = []
    for trial in _trials(options.seeds, options.rule, options.private, options.jobs):
        trials.append(trial)
        _say(trial, verbose=options.verbose)
        if len(trials) % 100 == 0:
            print(f"{len(trials)} seeds, {sum(bool(t.problems) for t in trials)} failed", flush=True)
    _summary(trials, time.monotonic() - began)
    return 1 if any(trial.problems for trial in trials) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Seeded faults in virtual time.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=_range, default=range(100), help="FIRST:END, such as 0:1000")
    which.add_argument("--seed", dest="seeds", type=lambda text: range(int(text), int(text) + 1), help="one seed")
    parser.add_argument("--rule", choices=RULES, help="for every seed; otherwise each draws its own")
    parser.add_argument("--private", action="store_true", help="with tickets, of which some are revoked")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--verbose", action="store_true", help="print each plan, and what the peers log")
    return parser.parse_args(arguments)


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def _trials(seeds: range, rule: str | None, private: bool, jobs: int) -> Iterator[Trial]:
    if jobs == 1:
        yield from (try_seed(seed, rule, private) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(try_seed, seeds, itertools.repeat(rule), itertools.repeat(private), chunksize=CHUNK)


def _say(trial: Trial, *, verbose: bool) -> None:
    if trial.problems:
        print(f"\nFAILED {trial.plan}")
        print("".join(f"  ! {problem}\n" for problem in trial.problems) + f"  replay: {trial.replay}", flush=True)
    elif verbose:
        print(f"{trial.plan}\n  clean; outcomes {dict(trial.outcomes)}; digest {trial.digest}")


def _summary(trials: Sequence[Trial], seconds: float) -> None:
    failed = [trial for trial in trials if trial.problems]
    print(f"\n{len(trials)} seeds in {seconds:.0f} s ({len(trials) / seconds:.1f} per second), {len(failed)} failed")
    _table("faults injected", [trial.injected for trial in trials])
    _table("of these, done to what was sent or begun", [trial.weather for trial in trials])
    _table("exchanges, both ends", [trial.outcomes for trial in trials])
    missed = sum(trial.missed.total() for trial in trials)
    recovery = sorted(trial.recovery_seconds for trial in trials)
    print(f"faults whose peer was gone by then: {missed}; half exchanges: {sum(t.halves for t in trials)}")
    print(f"last peer back after the last fault: median {statistics.median(recovery):.1f} s, most {recovery[-1]:.1f} s")
    print(f"largest loss of accuracy: {100 * max(trial.shortfall for trial in trials):.2f} points")
    for trial in failed:
        print(f"failed: {trial.replay}")


def _table(title: str, counts: Iterable[Counter[str]]) -> None:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    print(f"{title}: {total.total()}")
    for kind, number in sorted(total.items(), key=lambda item: -item[1]):
        print(f"  {kind:16}{number:8}")
