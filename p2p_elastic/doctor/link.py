"""What exchanges would be like over a link that the user describes. Pure functions."""

from __future__ import annotations

import math
from typing import NamedTuple

from p2p_elastic.doctor.checks import Finding, ok, warning
from p2p_elastic.protocol.chunks import EXACT
from p2p_elastic.protocol.codecs import BY_LOSS
from p2p_elastic.protocol.limits import AUTO_FRAGMENTS
from p2p_elastic.protocol.link_choice import (
    AUTO,
    FRAGMENT_SHARE,
    Link,
    bytes_per_element,
    choose_codec,
    choose_fragments,
    fragment,
)
from p2p_elastic.protocol.manifest import RunManifest

DAY_SECONDS = 86400.0
EXCHANGES_PER_PERIOD = 2.0  # one that the peer asks for, and on average one that it is asked for


class Plan(NamedTuple):
    """One exchange over a link.

    Attributes:
        codec: by which parameters travel.
        fragments: into how many parts they are divided.
        seconds: that the transfer of one part takes.
        period_seconds: between two exchanges that a peer asks for.
        whole_seconds: until each parameter was exchanged once.
        bytes_per_day: at most, each way.
        period_of_whole: steps of a period that leaves time for all parameters, by the codec of fewest bytes.
    """

    codec: str
    fragments: int
    seconds: float
    period_seconds: float
    whole_seconds: float
    bytes_per_day: float
    period_of_whole: int


def plan(elements: int, codec: str, fragments: int, *, period: float, step_seconds: float, rate: float) -> Plan:
    """Work out what exchanges would be like.

    Args:
        elements: D, of the model.
        codec: of the run, or "auto".
        fragments: of the run, or AUTO_FRAGMENTS.
        period: steps between two exchanges that a peer asks for.
        step_seconds: of an optimizer step.
        rate: of the link each way, in bytes per second.

    Returns:
        The plan.

    Example:
        >>> found = plan(2_913_290, "auto", AUTO_FRAGMENTS, period=32, step_seconds=0.1, rate=125e3)
        >>> found.codec, found.fragments, round(found.seconds, 1), round(found.whole_seconds), found.period_of_whole
        ('int8', 16, 1.5, 26, 482)
    """
    link, period_seconds = Link(0.5 / rate), period * step_seconds
    smallest = BY_LOSS[-1] if codec == AUTO else codec
    count = fragments if fragments != AUTO_FRAGMENTS else choose_fragments(elements, smallest, link, period_seconds)
    start, stop = fragment(elements, count, 0) or (0, elements)
    nbytes = 2 * (stop - start) * bytes_per_element(EXACT)
    chosen = choose_codec(int(nbytes), link.seconds_per_byte, period_seconds) if codec == AUTO else codec
    part_bytes = (stop - start) * bytes_per_element(chosen)
    seconds = part_bytes / rate
    per_second = min(EXCHANGES_PER_PERIOD / period_seconds if period_seconds else math.inf, 1.0 / seconds)
    steps = math.ceil(elements * bytes_per_element(smallest) / rate / FRAGMENT_SHARE / step_seconds)
    bytes_per_day = part_bytes * per_second * DAY_SECONDS
    return Plan(chosen, count, seconds, period_seconds, count / per_second, bytes_per_day, steps)


def check_link(manifest: RunManifest, elements: int, rate: float, step_seconds: float) -> Finding:
    """Say what exchanges of a run would be like over a link.

    Args:
        manifest: of the run, or of the one that would be founded.
        elements: D, of the model.
        rate: of the link each way, in bytes per second.
        step_seconds: of an optimizer step.

    Returns:
        A warning if one exchange takes longer than the time between two.
    """
    period = manifest.schedule.mean_period
    if not math.isfinite(period):
        return ok("link", "this run's peers ask for no exchanges")
    found = plan(elements, manifest.codec, manifest.fragments, period=period, step_seconds=step_seconds, rate=rate)
    parts = "all parameters" if found.fragments == 1 else f"1/{found.fragments} of the parameters"
    text = (
        f"{8 * rate / 1e6:.3g} Mbit/s each way, steps of {step_seconds:g} s: an exchange is due every {period:.0f} "
        f"steps ({found.period_seconds:.2g} s); it moves {parts} by codec {found.codec} in {found.seconds:.2g} s, and "
        f"all once in {found.whole_seconds:.3g} s; at most {found.bytes_per_day / 1e9:.2g} GB a day each way"
    )
    better = f"--period {found.period_of_whole} leaves time for the whole model; --max-bandwidth limits the bytes"
    if found.seconds > found.period_seconds:
        return warning("link", f"{text}; so the link is the limit, and exchanges are rarer", better)
    return Finding(check="link", level="ok", text=text, advice=better if found.fragments > 1 else None)
