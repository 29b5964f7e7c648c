"""What the doctor finds of CUDA: GPUs, drivers, and packages that only a GPU needs."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

import pytest

from p2p_elastic.doctor import probes


def pci_device(root: Path, vendor: str, kind: str) -> None:
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")


@pytest.mark.parametrize("file", ["dev/nvidiactl", "proc/driver/nvidia/version", "dev/nvhost-gpu", "dev/dxg"])
def test_a_driver_is_found_by_its_files(file: str, tmp_path: Path) -> None:
    assert not probes.has_nvidia(tmp_path)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert probes.has_nvidia(tmp_path)


@pytest.mark.parametrize(
    ("vendor", "kind", "is_one"),
    [
        ("0x10de", "0x030000", True),  # VGA
        ("0x10de", "0x030200", True),  # 3D controller: a GPU of a data centre
        ("0x10de", "0x040300", False),  # the sound of such a card
        ("0x8086", "0x030000", False),
    ],
)
def test_a_gpu_without_a_driver_is_found_on_its_bus(vendor: str, kind: str, is_one: bool, tmp_path: Path) -> None:
    pci_device(tmp_path, vendor, kind)
    assert probes.has_nvidia(tmp_path) is is_one


def test_a_device_that_cannot_be_read_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices/0000:01:00.0").mkdir(parents=True)
    assert not probes.has_nvidia(tmp_path)


def installed(folder: Path, name: str, sizes: list[int]) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{name}/{n}.so,,{size}\n" for n, size in enumerate(sizes)))
    (folder / name).mkdir()
    for number in range(len(sizes)):
        (folder / name / f"{number}.so").touch()  # Python 3.12 and later count only what is there


def test_packages_for_cuda_are_added_up(tmp_path: Path) -> None:
    installed(tmp_path, "nvidia_cudnn_cu13", [700, 70])
    installed(tmp_path, "cuda-bindings", [7])
    installed(tmp_path, "triton", [1000])
    for other in ("nvidia-ml-py", "torch", "tritonclient"):
        installed(tmp_path, other, [10**6])
    (tmp_path / "broken-1.0.dist-info").mkdir()
    assert probes.cuda_bytes(distributions(path=[str(tmp_path)])) == 1777


def test_a_package_that_does_not_list_its_files_counts_nothing(tmp_path: Path) -> None:
    installed(tmp_path, "triton", [1000])
    (tmp_path / "triton-1.0.dist-info" / "RECORD").unlink()
    assert probes.cuda_bytes(distributions(path=[str(tmp_path)])) == 0
