"""How much does the machine speak against this peer? Pure functions of what was measured of it, as in `signals.py`.

memory           hardly any is left
temperature      the GPU is too hot
cpu_temperature  the CPU is too hot
throttling       the hardware slows itself down for heat or power
battery          nearly empty
load             more threads than cores; speaks against nobody, and says why other things are slow
"""

from __future__ import annotations

import math

from p2p_elastic.health.signals import judged
from p2p_elastic.rules.ramp import ramp
from p2p_elastic.status.schema import SignalStatus

MEMORY_BAD, MEMORY_GOOD = 0.02, 0.08  # of all memory: below, the kernel soon ends the process
TEMPERATURE_BAD, TEMPERATURE_GOOD = 95.0, 85.0  # °C: a healthy GPU under load runs at 70 to 84
CPU_TEMPERATURE_BAD, CPU_TEMPERATURE_GOOD = 105.0, 97.0  # °C
THROTTLING_BAD, THROTTLING_GOOD = 0.2, 0.8  # of the full clock: a little less under load is usual
BATTERY_BAD, BATTERY_GOOD = 5.0, 30.0  # %: laptops go to sleep at about 5


def memory(available_share: float | None) -> SignalStatus | None:
    """How much is left of the machine's or container's memory.

    Args:
        available_share: as a share of the whole; None if not known.

    Returns:
        The signal, its value the share.
    """
    if available_share is None or not math.isfinite(available_share):
        return None
    text = f"{available_share * 100:.3g} % of the memory is left: the system may end this peer; end other programs"
    return judged("memory", ramp(available_share, bad=MEMORY_BAD, good=MEMORY_GOOD), available_share, "share", text)


def temperature(celsius: float | None) -> SignalStatus | None:
    """How hot the GPU in use is, or what an outside program measures of this machine.

    Args:
        celsius: in °C; None if not known.

    Returns:
        The signal, its value in °C.

    Example:
        >>> temperature(70.0).health, temperature(90.0).health, temperature(None)
        (1.0, 0.5, None)
    """
    if celsius is None or not math.isfinite(celsius):
        return None
    text = f"{celsius:.3g} °C: too hot, numbers may go wrong and the machine may stop; see to its fans and its air"
    return judged("temperature", ramp(celsius, bad=TEMPERATURE_BAD, good=TEMPERATURE_GOOD), celsius, "°C", text)


def cpu_temperature(celsius: float | None) -> SignalStatus | None:
    """How hot the CPU's package is. Many run at 95 under full load by design, so the limits are higher than a GPU's.

    Args:
        celsius: in °C; None if not known.

    Returns:
        The signal, its value in °C.
    """
    if celsius is None or not math.isfinite(celsius):
        return None
    text = f"{celsius:.3g} °C: the CPU is too hot and slows down; see to its fans and its air"
    health = ramp(celsius, bad=CPU_TEMPERATURE_BAD, good=CPU_TEMPERATURE_GOOD)
    return judged("cpu_temperature", health, celsius, "°C", text)


def throttling(clock_share: float | None) -> SignalStatus | None:
    """Whether the hardware slows itself down for heat or power.

    Args:
        clock_share: the current clock over the full one while it says so; else 1; None if not known.

    Returns:
        The signal, its value the share.
    """
    if clock_share is None or not math.isfinite(clock_share):
        return None
    text = (
        f"slows itself down to {clock_share * 100:.3g} % of its clock for heat or power; "
        "see to its fans and its power supply"
    )
    return judged("throttling", ramp(clock_share, bad=THROTTLING_BAD, good=THROTTLING_GOOD), clock_share, "share", text)


def load(per_core: float | None) -> SignalStatus | None:
    """How many threads want each core. Any load is fine for what a peer counts: `speed` judges that.

    Args:
        per_core: threads, mean of a minute; None if not known.

    Returns:
        The signal, its health always 1.
    """
    if per_core is None or not math.isfinite(per_core):
        return None
    return judged("load", 1.0, per_core, "threads per core")


def battery(percent: float | None, plugged: bool | None) -> SignalStatus | None:
    """How much charge is left; any is fine while the machine is plugged in.

    Args:
        percent: in %; None if not known or if there is no battery.
        plugged: None, if not known, counts as not plugged in.

    Returns:
        The signal, its value in %.
    """
    if percent is None or not math.isfinite(percent):
        return None
    text = f"{percent:.3g} % of the battery is left: this peer may go soon; plug the machine in"
    health = 1.0 if plugged else ramp(percent, bad=BATTERY_BAD, good=BATTERY_GOOD)
    return judged("battery", health, percent, "%", text)
