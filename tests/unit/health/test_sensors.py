from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from p2p_elastic.health import sensors
from p2p_elastic.health.sensors import Readings, Sensors

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
GIB = 2**30
NOTHING = Path("/nowhere")
IDLE, POWER_CAP, HARDWARE, THERMAL, HARDWARE_THERMAL, BRAKE = 0x1, 0x4, 0x8, 0x20, 0x40, 0x80  # of nvml.h

BUSES = {"00000000:17:00.0": "first", "00000000:65:00.0": "second", "00000001:CA:02.0": "third"}
UUIDS = {"GPU-17": "first", "GPU-65": "second", "MIG-7": "part"}


def fails(*_: object) -> Any:
    raise OSError("no such sensor")


def machine(available: float = 8 * GIB, *, chips: Any = None, battery: Any = None) -> SimpleNamespace:
    """psutil on a machine with 16 GiB."""
    return SimpleNamespace(
        virtual_memory=lambda: SimpleNamespace(available=available, total=16 * GIB),
        sensors_temperatures=lambda: chips or {},
        sensors_battery=lambda: battery,
    )


def heat(*entries: tuple[str, float]) -> list[SimpleNamespace]:
    return [SimpleNamespace(label=label, current=celsius) for label, celsius in entries]


class FakeNvml:
    """pynvml with three GPUs, of which the full clock is 1980 MHz. It knows nothing before it is started."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1

    def __init__(self, celsius: float = 70.0, reasons: int = 0, clock: int = 1980, count: int = 3) -> None:
        self.celsius, self.reasons, self.clock, self.count = celsius, reasons, clock, count
        self.users = self.starts = 0
        self.asked: set[str] = set()

    def nvmlInit(self) -> None:
        self.users += 1
        self.starts += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        return BUSES[bus]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return UUIDS[uuid]

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return ("first", "second", "third")[index]

    def nvmlDeviceGetTemperatureV(self, gpu: str, sensor: int) -> float:
        assert (self.users, sensor) == (1, 0)
        self.asked.add(gpu)
        return self.celsius

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: str) -> int:
        return self.reasons

    def nvmlDeviceGetClockInfo(self, gpu: str, clock: int) -> int:
        assert clock == 1
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, gpu: str, clock: int) -> int:
        assert clock == 1
        return 1980


class OldNvml(FakeNvml):
    """Of a driver without the newer functions."""

    nvmlDeviceGetTemperatureV = nvmlDeviceGetCurrentClocksEventReasons = fails  # type: ignore[assignment]

    def nvmlDeviceGetTemperature(self, gpu: str, sensor: int) -> int:
        return int(self.celsius)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:
        return self.reasons


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Two CUDA devices in PyTorch: 0 is NVML's third, 1 its second. The test may change what they tell."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    devices = {
        0: SimpleNamespace(pci_domain_id=1, pci_bus_id=0xCA, pci_device_id=2),
        1: SimpleNamespace(pci_domain_id=0, pci_bus_id=0x65, pci_device_id=0, uuid="17"),
    }
    monkeypatch.setattr(torch.cuda, "get_device_properties", devices.__getitem__)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return devices


def gpu(nvml: Any, device: torch.device = GPU, system: Any = None) -> Sensors:
    return Sensors(device, nvml=nvml, system=system or machine(), root=NOTHING)


def test_a_real_machine_can_be_read() -> None:
    found = sensors.read(CPU)
    assert found.available_share is not None
    assert 0.0 < found.available_share <= 1.0
    assert found.clock_share is None
    assert "memory" in [signal.name for signal in Sensors.signals(found)]


def test_without_an_nvidia_gpu_nothing_is_known_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    found = sensors.read(GPU)
    assert found.clock_share is None
    assert found.available_share is not None


def test_the_real_pynvml_has_every_function_that_is_used() -> None:
    pynvml = importlib.import_module("pynvml")
    used = set(re.findall(r"\.(nvml[A-Z]\w+|NVML_\w+)", inspect.getsource(sensors)))
    assert len(used) == 14
    assert {name for name in used if not hasattr(pynvml, name)} == set()
    slowed = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert sum(getattr(pynvml, f"nvmlClocksThrottleReason{name}") for name in slowed) == sensors.REASONS_SLOWED
    assert pynvml.nvmlClocksThrottleReasonGpuIdle == sensors.REASON_IDLE


def test_a_cpu_peer_leaves_the_gpu_alone() -> None:
    nvml = FakeNvml()
    assert gpu(nvml, CPU).read() == Readings(available_share=0.5)
    assert nvml.starts == 0


@pytest.mark.parametrize(
    ("device", "name"),
    [(torch.device("cuda", 1), "second"), (torch.device("cuda", 0), "third"), (torch.device("cuda"), "third")],
)
def test_a_gpu_is_found_on_its_bus(device: torch.device, name: str) -> None:
    nvml = FakeNvml(71.0)
    assert gpu(nvml, device).read().celsius == 71.0
    assert nvml.asked == {name}


def test_an_older_pytorch_tells_the_uuid_only(cuda: dict[int, Any]) -> None:
    cuda[1] = SimpleNamespace(uuid="17")
    nvml = FakeNvml()
    assert gpu(nvml).read().celsius == 70.0
    assert nvml.asked == {"first"}


@pytest.mark.parametrize(
    ("visible", "order", "count", "name"),
    [
        (None, None, 3, None),  # CUDA may count in another order
        (None, "PCI_BUS_ID", 3, "second"),
        ("2,0", "PCI_BUS_ID", 3, "first"),
        ("2, 0", "PCI_BUS_ID", 3, "first"),
        ("2,0", None, 3, None),
        ("2,0", None, 1, "first"),
        ("GPU-17,GPU-65", None, 3, "second"),
        ("GPU-17,MIG-7", None, 3, "part"),
        ("2", "PCI_BUS_ID", 3, None),
        ("", "PCI_BUS_ID", 3, None),
    ],
)
def test_a_yet_older_pytorch_tells_the_number_only(
    cuda: dict[int, Any], monkeypatch: pytest.MonkeyPatch, visible: str | None, order: str | None, count: int, name: str
) -> None:
    cuda[1] = SimpleNamespace()
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if order is not None:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    nvml = FakeNvml(count=count)
    assert gpu(nvml).read().celsius == (70.0 if name else None)
    assert nvml.asked == ({name} if name else set())


@pytest.mark.parametrize("kind", [FakeNvml, OldNvml])
@pytest.mark.parametrize(
    ("reasons", "clock", "share"),
    [
        (0, 300, 1.0),
        (IDLE, 300, 1.0),
        (POWER_CAP, 990, 1.0),
        (HARDWARE, 990, 0.5),
        (THERMAL, 990, 0.5),
        (HARDWARE_THERMAL, 990, 0.5),
        (BRAKE | POWER_CAP, 495, 0.25),
        (HARDWARE | IDLE, 300, None),
    ],
)
def test_a_gpu_that_slows_itself_down(kind: type[FakeNvml], reasons: int, clock: int, share: float | None) -> None:
    found = gpu(kind(64.0, reasons, clock)).read()
    assert (found.celsius, found.clock_share) == (64.0, share)


def test_the_gpus_driver_is_loaded_once_and_let_go_once() -> None:
    nvml = FakeNvml()
    one = gpu(nvml)
    assert [one.read().celsius for _ in range(3)] == [70.0] * 3
    assert (nvml.starts, nvml.users) == (1, 1)
    one.close()
    one.close()
    assert nvml.users == 0
    assert one.read() == Readings(available_share=0.5)


def test_a_driver_whose_gpu_is_not_found_is_let_go_too(cuda: dict[int, Any]) -> None:
    cuda.clear()
    nvml = FakeNvml()
    one = gpu(nvml)
    assert one.read().celsius is None
    one.close()
    assert (nvml.starts, nvml.users) == (1, 0)


class Broken:
    """Any of its functions fails."""

    def __getattr__(self, name: str) -> Any:
        return fails


class Empty:
    """None of its functions is there."""


@pytest.mark.parametrize("driver", [Broken(), Empty()])
def test_nothing_is_known_where_every_sensor_fails(driver: Any) -> None:
    one = Sensors(GPU, nvml=driver, system=driver, root=NOTHING)
    assert one.read() == Readings()
    assert one.signals(one.read()) == ()
    one.close()


HARMLESS = {
    *("nvmlShutdown", "nvmlDeviceGetCount"),
    *(f"nvmlDeviceGetHandleBy{way}" for way in ("PciBusId", "UUID", "Index")),  # the others find it too
}


@pytest.mark.parametrize("name", [name for name in vars(FakeNvml) if name.startswith("nvml")])
def test_one_failure_hides_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeNvml, name, fails)
    one = gpu(FakeNvml(reasons=THERMAL))
    found = one.read()
    one.close()
    assert found.available_share == 0.5
    assert found.celsius == (70.0 if "Clock" in name or name in HARMLESS else None)
    assert found.clock_share == (1.0 if "Temperature" in name or name in HARMLESS else None)


@pytest.mark.parametrize(
    ("chips", "celsius"),
    [
        ({}, None),
        ({"coretemp": heat(("Package id 0", 60.0), ("Core 0", 99.0), ("Package id 1", 62.0))}, 62.0),
        ({"k10temp": heat(("Tctl", 87.0), ("Tdie", 60.0), ("Tccd1", 99.0))}, 60.0),
        ({"k10temp": heat(("Tctl", 61.0), ("Tccd1", 99.0))}, 61.0),
        ({"cpu_thermal": heat(("", 55.0))}, 55.0),
        ({"acpitz": heat(("", 99.0)), "nvme": heat(("Composite", 99.0))}, None),
        ({"coretemp": heat(("Package id 0", 0.0))}, None),
        ({"coretemp": heat(("Core 0", 50.0))}, None),
    ],
)
def test_the_temperature_of_a_cpu_is_that_of_its_package(chips: Any, celsius: float | None) -> None:
    assert Sensors(CPU, system=machine(chips=chips), root=NOTHING).read().cpu_celsius == celsius


def test_gpu_and_cpu_have_a_temperature_each() -> None:
    chips = {"coretemp": heat(("Package id 0", 60.0))}
    found = gpu(FakeNvml(70.0), system=machine(chips=chips)).read()
    assert (found.celsius, found.cpu_celsius) == (70.0, 60.0)


@pytest.mark.parametrize("plugged", [True, False, None])
def test_a_battery(plugged: bool | None) -> None:
    charge = SimpleNamespace(percent=5.0, power_plugged=plugged)
    one = Sensors(CPU, system=machine(battery=charge), root=NOTHING)
    found = one.read()
    assert (found.battery_percent, found.plugged) == (5.0, plugged)
    assert {signal.name: signal.health for signal in one.signals(found)} == {
        "memory": 1.0,
        "battery": float(plugged or 0),
    }


@pytest.mark.parametrize(("threads", "cores", "load"), [(9.0, 2, 4.5), (0.0, 4, 0.0), (1.0, None, None)])
def test_the_load_is_that_of_each_core(threads: float, cores: int | None, load: float | None) -> None:
    system = machine()
    system.getloadavg, system.cpu_count = lambda: (threads, 0.0, 0.0), lambda: cores
    found = Sensors(CPU, system=system, root=NOTHING).read()
    assert found.load == load
    signals = {signal.name: (signal.health, signal.value) for signal in Sensors.signals(found)}
    assert signals.get("load") == (None if load is None else (1.0, load))  # nobody counts for less by it


def test_signals_are_what_the_readings_mean() -> None:
    found = Sensors.signals(Readings(0.05, 90.0, 101.0, 0.5, 17.5, False))
    assert {signal.name: pytest.approx(signal.health) for signal in found} == {
        **{name: 0.5 for name in ("memory", "temperature", "cpu_temperature", "throttling", "battery")}
    }
    assert Sensors.signals(Readings()) == ()


def group(root: Path, folder: str, limit: object, used: object, **stat: int) -> None:
    """A cgroup with a memory controller, of the version that the folder is of."""
    where = root / "sys/fs/cgroup" / folder
    where.mkdir(parents=True, exist_ok=True)
    old = folder.startswith("memory")
    (where / ("memory.limit_in_bytes" if old else "memory.max")).write_text(f"{limit}\n")
    (where / ("memory.usage_in_bytes" if old else "memory.current")).write_text(f"{used}\n")
    (where / "memory.stat").write_text("".join(f"{name} {size}\n" for name, size in {"anon": 1, **stat}.items()))


def share_left(root: Path, own: str, available: float = 12 * GIB) -> float | None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    return Sensors(CPU, system=machine(available), root=root).read().available_share


def test_in_a_container_memory_is_what_its_limit_leaves(tmp_path: Path) -> None:
    group(tmp_path, "", 4 * GIB, 3 * GIB, inactive_file=GIB // 2, active_file=GIB // 2, total_inactive_file=GIB)
    assert share_left(tmp_path, "0::/\n") == 0.5


def test_in_an_older_container_too(tmp_path: Path) -> None:
    group(tmp_path, "memory", 4 * GIB, 3 * GIB, total_inactive_file=GIB, total_active_file=0, inactive_file=2 * GIB)
    host = "9:name=systemd:/docker/5f\n4:cpu,memory:/docker/5f\n0::/system.slice/docker.service\n"
    assert share_left(tmp_path, host) == 0.5


def test_the_tightest_group_around_the_process_counts(tmp_path: Path) -> None:
    group(tmp_path, "user.slice", 8 * GIB, 6 * GIB)
    group(tmp_path, "user.slice/session", "max", 5 * GIB)
    group(tmp_path, "user.slice/session/peer", 8 * GIB, 4 * GIB)
    group(tmp_path, "other.slice", GIB, GIB)
    assert share_left(tmp_path, "0::/user.slice/session/peer\n") == 0.25


@pytest.mark.parametrize(
    ("limit", "used"),
    [("max", GIB), (9223372036854771712, GIB), (16 * GIB, 16 * GIB), (0, GIB), ("?", GIB), (GIB, "?")],
)
def test_a_group_without_a_limit_that_can_be_read_says_nothing(tmp_path: Path, limit: object, used: object) -> None:
    group(tmp_path, "", limit, used)
    group(tmp_path, "memory", limit, used)
    assert share_left(tmp_path, "4:memory:/\n0::/\n") == 0.75


def test_a_machine_out_of_memory_is_one_in_a_container_with_room_too(tmp_path: Path) -> None:
    group(tmp_path, "", 4 * GIB, GIB)
    assert share_left(tmp_path, "0::/\n", available=1.6 * GIB) == pytest.approx(0.1)


@pytest.mark.parametrize(("used", "share"), [(5 * GIB, 0.0), (GIB // 2, 1.0)])
def test_a_share_of_memory_stays_within_0_to_1(tmp_path: Path, used: int, share: float) -> None:
    group(tmp_path, "", 4 * GIB, used, inactive_file=GIB // 2 + 1)
    assert share_left(tmp_path, "0::/\n", available=16 * GIB) == share


def test_without_cgroups_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert Sensors(CPU, system=machine(), root=tmp_path).read().available_share == 0.5


@pytest.mark.parametrize(("supplies", "counts"), [(("hidpp_battery_0",), False), (("BAT0", "hidpp_battery_0"), True)])
def test_the_battery_of_a_mouse_says_nothing_about_the_machine(
    supplies: tuple[str, ...], counts: bool, tmp_path: Path
) -> None:
    for name in supplies:
        folder = tmp_path / "sys/class/power_supply" / name
        folder.mkdir(parents=True)
        if not name.startswith("BAT"):
            (folder / "scope").write_text("Device\n")
    system = machine(battery=SimpleNamespace(percent=6, power_plugged=False))
    readings = Sensors(torch.device("cpu"), system=system, root=tmp_path).read()
    assert readings.battery_percent == (6 if counts else None)
