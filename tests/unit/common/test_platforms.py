"""Where no peer can run, and which build of PyTorch belongs where: said before anything heavy is loaded."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from p2p_elastic.cli.main import main
from p2p_elastic.common.platforms import Build, Platform, check_platform
from p2p_elastic.doctor.checks import Cuda, check_pytorch
from p2p_elastic.errors import ConfigError, NetworkError
from p2p_elastic.parameters import devices
from p2p_elastic.parameters.devices import choose_device

CPU, CUDA = "2.14.1+cpu", "2.14.1+cu130"
WINDOWS = Platform("Windows", "AMD64", 64)


@pytest.mark.parametrize(
    "where",
    [
        Platform("Linux", "x86_64", 64),
        Platform("Linux", "aarch64", 64),
        Platform("Darwin", "arm64", 64),
        Platform.here(),
    ],
)
def test_peers_run_on_64_bit_linux_and_macos(where: Platform) -> None:
    check_platform(where)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Platform("Linux", "armv7l", 32), "32-bit, on armv7l.*64-bit system"),
        (Platform("Linux", "aarch64", 32), "32-bit, on aarch64.*64-bit system"),  # a 64-bit kernel, all else is not
        (WINDOWS, "Windows.*WSL"),
        (Platform("Windows", "x86", 32), "Windows.*WSL"),
    ],
)
def test_elsewhere_it_is_said_what_to_install(where: Platform, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        check_platform(where)


@pytest.mark.parametrize("command", ["join", "doctor", "demo", "status"])
def test_every_command_says_so_in_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platform, "here", lambda: WINDOWS)
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 2
    assert result.output.startswith("p2p-elastic: error: not supported on Windows itself")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("build", "level", "text", "advice"),
    [
        (Build(CPU, None, False, 0), "ok", "for the CPU", None),
        (Build(CUDA, "13.0", True, 1), "ok", "for CUDA 13.0", None),
        (Build(CUDA, "13.0", False, 0), "ok", "no NVIDIA GPU is here for it", "whl/cpu"),
        (Build(CPU, None, False, 1), "warning", "a build without CUDA", "install the build for CUDA"),
        (Build(CUDA, "13.0", False, 2), "warning", "for CUDA 13.0 cannot use it", "driver for CUDA 13.0"),
    ],
)
def test_the_build_of_pytorch_is_that_for_the_machine(build: Build, level: str, text: str, advice: str | None) -> None:
    finding = check_pytorch(build, Cuda(device=True, package_bytes=0), "x86_64")
    assert (finding.level, text in finding.text) == (level, True)
    assert finding.advice is None if advice is None else advice in str(finding.advice)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_machine_without_a_gpu_is_told_what_cuda_takes_of_its_disk(machine: str) -> None:
    finding = check_pytorch(Build(CUDA, "13.0", False, 0), Cuda(device=False, package_bytes=4_331_665_983), machine)
    assert finding.level == "warning"
    assert "no NVIDIA GPU is in this machine: 4.3 GB of packages are not used" in finding.text
    assert "in a new environment" in str(finding.advice)
    assert "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu" in str(finding.advice)
    assert ("PyPI's PyTorch for aarch64 is for CUDA since 2.11" in finding.text) is (machine == "aarch64")
    assert ("'torch<2.11'" in str(finding.advice)) is (machine == "aarch64")


@pytest.mark.parametrize("build", [Build(CPU, None, False, 0), Build(CUDA, "13.0", True, 1)])
def test_a_build_that_suits_the_machine_is_in_order_whatever_else_is_installed(build: Build) -> None:
    assert check_pytorch(build, Cuda(device=False, package_bytes=10**9), "aarch64").level == "ok"


def test_who_asks_for_a_gpu_that_is_not_there_learns_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "build_here", lambda: Build(CUDA, "13.0", False, 0))
    with pytest.raises(ConfigError, match=r"there is: cpu.*no NVIDIA GPU is here for it.*whl/cpu"):
        choose_device("cuda")


def test_who_has_a_gpu_that_the_build_cannot_use_is_warned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for gpus in (0, 1):
        assert "without CUDA" not in caplog.text
        build = Build(CPU, None, False, gpus)
        monkeypatch.setattr(devices, "build_here", lambda build=build: build)
        assert choose_device("auto").type == "cpu"
    assert "without CUDA" in caplog.text
