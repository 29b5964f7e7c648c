"""What this machine says about itself: memory, temperature, throttling, battery and load.

Nothing here raises: if a machine has no such sensor, or its driver fails, the reading is None.

Sources: psutil; NVML (pynvml, from nvidia-ml-py) for NVIDIA GPUs; the memory controller of cgroups, v1 and v2, whose
limit is what ends a process in a container.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import torch

from p2p_elastic.common.cgroup import memory_limits
from p2p_elastic.health.hardware import battery, cpu_temperature, load, memory, temperature, throttling
from p2p_elastic.status.schema import SignalStatus

T = TypeVar("T")

# Bits of nvmlDeviceGetCurrentClocksEventReasons. The power cap (4) is not among them: full load reaches it.
REASON_IDLE = 0x01
REASONS_SLOWED = 0x08 | 0x20 | 0x40 | 0x80  # hardware slowdown, thermal (software, hardware), power brake

# Per chip the labels that mean the whole package, the best first. Ryzen's Tctl may have an offset, Tdie has none.
# Others, such as acpitz, are somewhere on the board or do not change at all.
CPU_CHIPS = {
    "coretemp": ("Package id",),
    "k10temp": ("Tdie", "Tctl"),
    "zenpower": ("Tdie", "Tctl"),
    "cpu_thermal": ("",),
    "cpu-thermal": ("",),
    "soc_thermal": ("",),
}


class Readings(NamedTuple):
    """What the sensors said at one moment; None: it cannot be known.

    Attributes:
        available_share: memory left, as a share of the whole (the container's, if that is less).
        celsius: of the GPU in use.
        cpu_celsius: of the CPU's package; the hottest if there are several.
        clock_share: the GPU's clock over its full one while it slows itself down; else 1.
        battery_percent: the charge.
        plugged: whether the machine is plugged in.
        load: threads that want each core, mean of a minute.
    """

    available_share: float | None = None
    celsius: float | None = None
    cpu_celsius: float | None = None
    clock_share: float | None = None
    battery_percent: float | None = None
    plugged: bool | None = None
    load: float | None = None


class Sensors:
    """The sensors of this machine. Reading them takes few milliseconds.

    Args:
        device: on which the peer trains.
        nvml: stands in for pynvml, which is loaded only for a CUDA device.
        system: stands in for psutil.
        root: stands in for `/`.
    """

    def __init__(
        self, device: torch.device, *, nvml: Any | None = None, system: Any = psutil, root: Path = Path("/")
    ) -> None:
        self._system, self._root = system, root
        self._nvml: Any | None = None
        self._gpu: Any | None = None
        if device.type == "cuda":
            self._nvml = _known(lambda: _started(nvml))
        if self._nvml is not None:
            self._gpu = _known(lambda: _gpu_of(self._nvml, device))

    def read(self) -> Readings:
        """Read all sensors. Never raises.

        Returns:
            What they say now.
        """
        charge = _known(lambda: self._system.sensors_battery())
        if _known(lambda: _of_a_device(self._root)):
            charge = None
        return Readings(
            available_share=min((share for share in self._available_shares() if share is not None), default=None),
            celsius=_known(self._gpu_celsius),
            cpu_celsius=_known(lambda: _cpu_celsius(self._system)),
            clock_share=_known(self._clock_share),
            battery_percent=None if charge is None else charge.percent,
            plugged=None if charge is None else charge.power_plugged,
            load=_known(lambda: float(self._system.getloadavg()[0]) / self._system.cpu_count()),
        )

    @staticmethod
    def signals(readings: Readings) -> tuple[SignalStatus, ...]:
        """Work out what readings mean for the health of the peer.

        Args:
            readings: at one moment.

        Returns:
            A signal for each reading that is known.
        """
        found = (
            memory(readings.available_share),
            temperature(readings.celsius),
            cpu_temperature(readings.cpu_celsius),
            throttling(readings.clock_share),
            battery(readings.battery_percent, readings.plugged),
            load(readings.load),
        )
        return tuple(signal for signal in found if signal is not None)

    def close(self) -> None:
        """Let go of the GPU's driver; afterwards nothing more is known of the GPU. May be called twice."""
        nvml, self._nvml, self._gpu = self._nvml, None, None
        if nvml is not None:
            _known(lambda: nvml.nvmlShutdown())

    def _available_shares(self) -> Iterator[float | None]:
        whole = _known(lambda: self._system.virtual_memory())
        if whole is not None:
            yield whole.available / whole.total
            for group in memory_limits(self._root):
                if group.limit < whole.total:
                    yield max(1.0 - group.used / group.limit, 0.0)  # above 1 the machine's own share is the lower one

    def _gpu_celsius(self) -> float | None:
        nvml, gpu = self._nvml, self._gpu
        if nvml is None or gpu is None:
            return None
        # The second is deprecated, the first is not in old drivers.
        new = _known(lambda: nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU))
        return float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU) if new is None else new)

    def _clock_share(self) -> float | None:
        nvml, gpu = self._nvml, self._gpu
        if nvml is None or gpu is None:
            return None
        new = _known(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu) if new is None else new
        if not reasons & REASONS_SLOWED:
            return 1.0
        if reasons & REASON_IDLE:
            return None  # the clock is low because there is nothing to do
        full = nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)
        return float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) / full)


def read(device: torch.device) -> Readings:
    """Look at the sensors once. Never raises.

    A caller that looks more often keeps a `Sensors`: the GPU's driver is slow to load.

    Args:
        device: on which the peer trains.

    Returns:
        What they say now.
    """
    sensors = Sensors(device)
    try:
        return sensors.read()
    finally:
        sensors.close()


def _known(reading: Callable[[], T]) -> T | None:
    try:
        return reading()
    except Exception:  # noqa: BLE001  # drivers fail in their own ways, and no sensor is worth a training
        return None


def _started(nvml: Any | None) -> Any:
    module = importlib.import_module("pynvml") if nvml is None else nvml
    module.nvmlInit()
    return module


def _gpu_of(nvml: Any, device: torch.device) -> Any:
    """NVML's handle of a device of PyTorch; NVML numbers devices in another order and ignores CUDA_VISIBLE_DEVICES."""
    index = torch.cuda.current_device() if device.index is None else device.index
    properties: Any = torch.cuda.get_device_properties(index)  # old versions of PyTorch tell neither bus nor UUID
    # The bus first: for a part of a GPU (MIG) it is that of the whole, which is what has a temperature.
    for search in (_gpu_on_bus, _gpu_by_uuid):
        if (found := _known(partial(search, nvml, properties))) is not None:
            return found
    return _gpu_at(nvml, index)


def _gpu_on_bus(nvml: Any, properties: Any) -> Any:
    domain, bus, slot = properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id
    return nvml.nvmlDeviceGetHandleByPciBusId(f"{domain:08X}:{bus:02X}:{slot:02X}.0")


def _gpu_by_uuid(nvml: Any, properties: Any) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")


def _gpu_at(nvml: Any, index: int) -> Any | None:
    """None if the number does not tell which GPU it is: CUDA counts the fastest first, NVML along the bus."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        name = visible.split(",")[index].strip()
        if not name.isdecimal():
            return nvml.nvmlDeviceGetHandleByUUID(name)
        index = int(name)
    same_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or nvml.nvmlDeviceGetCount() == 1
    return nvml.nvmlDeviceGetHandleByIndex(index) if same_order else None


def _cpu_celsius(system: Any) -> float | None:
    chips = system.sensors_temperatures()
    found = [
        entry.current
        for chip, labels in CPU_CHIPS.items()
        for entry in _package(chips.get(chip, ()), labels)
        if entry.current > 0.0
    ]
    return max(found, default=None)


def _package(entries: Any, labels: tuple[str, ...]) -> list[Any]:
    for label in labels:
        if found := [entry for entry in entries if entry.label.startswith(label)]:
            return found
    return []


def _of_a_device(root: Path) -> bool:
    """Whether the battery that psutil reads is that of a mouse or the like, whatever the machine itself lives on.

    Source: psutil's choice of a battery on Linux; the kernel's Documentation/ABI/testing/sysfs-class-power, "scope".
    """
    supplies = root / "sys/class/power_supply"
    batteries = [s.name for s in supplies.iterdir() if s.name.startswith("BAT") or "battery" in s.name.lower()]
    return bool(batteries) and (supplies / min(batteries) / "scope").read_text().strip() == "Device"
