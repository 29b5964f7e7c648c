"""The image, in containers: who stops, restarts, is killed and has little. `make images` builds it and runs these."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.linux.container import CGROUPS, Container, bridge, image_root, run, until

IMAGE = os.environ.get("P2P_ELASTIC_IMAGE")
pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="`make images` builds the image and says its name"),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("buildah"), reason="needs root and buildah"),
]
MB = 2**20
IMAGE_BYTES_MAX = 900 * 10**6
JOIN = (
    *("p2p-elastic", "join", "--output", "/data/run", "--resume-or-found", "--identity", "/data/peer.key"),
    *("--port", "31330", "--http-host", "0.0.0.0", "--http-port", "8870", "--checkpoint-every", "3s", "--threads", "1"),
)
Make = Callable[..., Container]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with image_root(str(IMAGE)) as path:
        yield path


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:
        stack.enter_context(bridge())

        def made(number: int, **limits: float) -> Container:
            container = Container(number, root, tmp_path, **limits)  # type: ignore[arg-type]
            stack.callback(container.close)
            return container

        yield made


def trains(container: Container, beyond: int = 0) -> int:
    return int(
        until(
            lambda: (step := container.status()["training"]["step"]) > beyond and step, 90, f"steps: {container.said()}"
        )
    )


def saved(container: Container) -> int:
    """Wait for a checkpoint of what is trained by now.

    Returns:
        A step that a restart does not go back behind.
    """
    step = trains(container)
    until(lambda: (container.status()["checkpoint"]["step"] or 0) >= step, 90, f"checkpoint: {container.said()}")
    return step


def exchanged(container: Container, beyond: int = 0) -> int:
    def ok() -> int:
        count = int(container.status()["exchanges"]["by_outcome"].get("completed", 0))
        return count if count > beyond else 0

    return int(until(ok, 90, f"exchanges: {container.said()}"))


def founded(container: Container) -> str:
    container.start(*JOIN, "--task", "digits", "--steps", "1000000")
    trains(container)
    address: str = until(
        lambda: next((a for a in container.status()["network"]["addresses"] if container.address in a), None),
        30,
        "address",
    )
    return address


def test_the_image_is_small(root: Path) -> None:
    assert sum(path.lstat().st_size for path in root.rglob("*")) < IMAGE_BYTES_MAX


def test_a_container_that_cannot_be_made_leaves_nothing(root: Path, tmp_path: Path) -> None:
    with bridge(), pytest.raises(subprocess.CalledProcessError):
        Container(256, root, tmp_path, memory=512 * MB, cpus=1.0)  # no address of IPv4 ends with that
    assert not list(CGROUPS.glob("**/p2pe-256"))
    assert "p2pe-256" not in run("ip", "netns", "list") + run("ip", "link", "show")


def test_a_swarm_of_containers_outlives_a_stop_a_restart_and_a_kill(make: Make) -> None:
    first, second = make(2), make(3)
    address = founded(first)
    joins = (*JOIN, "--steps", "1000000", "--initial-peer", address)
    second.start(*joins)
    exchanged(second)
    run = first.status()["run"]
    assert os.stat(f"/proc/{second.main()}").st_uid == 1000
    assert {path.name for path in second.volume.iterdir()} >= {"run", "peer.key"}

    stopped_at = second.status()["training"]["step"]
    assert second.stop(signal.SIGTERM) == 0
    trains(first)
    second.start(*joins)
    assert trains(second) >= stopped_at
    assert second.status()["run"] == run
    exchanged(second)

    before = saved(first)
    first.stop(signal.SIGKILL)
    trains(second, beyond=second.status()["training"]["step"])
    first.start(*JOIN, "--task", "digits", "--steps", "1000000")
    assert trains(first) >= before
    assert first.status()["run"] == run
    exchanged(first)


def test_a_machine_like_a_raspberry_pi_trains_exchanges_and_goes_on_after_a_kill(make: Make) -> None:
    other, small = make(2), make(3, memory=512 * MB, cpus=1.0)
    small.inside(
        "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "16kb", "latency", "400ms"
    )
    joins = (*JOIN, "--steps", "1000000", "--initial-peer", founded(other))
    small.start(*joins)
    exchanged(small)
    trains(small, beyond=small.status()["training"]["step"])
    step = saved(small)
    small.stop(signal.SIGKILL)
    trains(other, beyond=other.status()["training"]["step"])
    small.start(*joins)
    assert trains(small) >= step
    exchanged(small)
    assert small.memory_peak() <= 512 * MB


def test_digits_is_trained_and_exchanged_within_384_mb(make: Make) -> None:
    other, small = make(2), make(3, memory=384 * MB, cpus=1.0)
    small.start(*JOIN, "--steps", "1000000", "--initial-peer", founded(other))
    exchanged(small, beyond=5)
    trains(small, beyond=small.status()["training"]["step"])
    assert small.memory_peak() <= 384 * MB


def test_a_model_that_the_limit_has_no_room_for_is_refused(make: Make) -> None:
    small = make(2, memory=512 * MB)
    small.start(*JOIN, "--task", "cifar10")
    assert small.wait() == 2
    assert "raise the memory limit" in small.said()
