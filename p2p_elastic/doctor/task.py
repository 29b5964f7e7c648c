"""What the doctor finds about a task: its model, and whether its data are here or can be had."""

from __future__ import annotations

import functools
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch

from p2p_elastic.doctor.checks import Finding, Gpu, failure, ok, warning
from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.manifest import check_batch_size
from p2p_elastic.tasks import Data, Shard, Split, Task, initial_model, load_data
from p2p_elastic.tasks.folders import Source, data_folder
from p2p_elastic.tasks.sampling import length

CONNECT_SECONDS = 5.0
SETS = {  # data set -> its class in torchvision, bytes to download, bytes on disk meanwhile
    "mnist": ("MNIST", 12_000_000, 66_000_000),
    "fashion-mnist": ("FashionMNIST", 31_000_000, 86_000_000),
    "cifar10": ("CIFAR10", 170_000_000, 360_000_000),
}


class Found(NamedTuple):
    """What was found about the data.

    Attributes:
        finding: for the user.
        data_bytes: in memory; estimated if the data is not here yet.
        download_bytes: on disk, still to come.
        examples: to train on; None if that is not known.
    """

    finding: Finding
    data_bytes: int
    download_bytes: int = 0
    examples: int | None = None


def model_bytes(task: Task) -> int:
    """Measure the model of a task.

    Args:
        task: the task.

    Returns:
        Bytes on the wire and in each vector, in float32.
    """
    return task.vector(initial_model(task, 0)).nbytes


def gpu_of(device: torch.device) -> Gpu | None:
    """Look at the memory of a device.

    Args:
        device: that would train.

    Returns:
        The GPU; None if PyTorch does not say how much memory it has.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return Gpu(torch.cuda.get_device_name(device), free, total)


def look_at_data(task: Task, data_dir: Path | None, servers: Callable[[str], list[str]] | None = None) -> Found:
    """Load the data if they are here; otherwise see whether they could be downloaded. Downloads nothing.

    Args:
        task: the task.
        data_dir: folder with the data sets; None is the default folder.
        servers: gives the URLs of a data set by its name; None asks torchvision.

    Returns:
        What was found.
    """
    source, folder = source_of(task), data_folder(data_dir)
    if source is not None and not has_data(task, data_dir):
        return _to_download(source, folder, servers or download_urls)
    began = time.monotonic()
    try:
        data = load_data(task, data_dir)
    except ConfigError as error:
        return Found(failure("data", str(error), "replace it, or name another folder with --data-dir"), 0)
    seconds = time.monotonic() - began
    where = "inside a package" if source is None else f"in {folder}"
    text = f"{task.name}: {_count(data)} to train on, {where}, loaded in {seconds:.1f} s"
    return Found(ok("data", text), _bytes_of(data), examples=length(data.train, 0) or None)


def check_shard(shard: Shard | None, examples: int | None) -> list[Finding]:
    """Check that there is something in a part of the data.

    Args:
        shard: the part; None is all.
        examples: in all parts; None if that is not known.

    Returns:
        A failure if it is empty; nothing otherwise.
    """
    if shard is None or examples is None or not shard.is_empty(examples):
        return []
    return [failure("data", f"shard {shard} of {examples:,} examples is empty", "choose fewer shards with --shard")]


def check_batch(batch_size: int, examples: int | None) -> list[Finding]:
    """Check that there are enough examples for a batch.

    Args:
        batch_size: examples per step.
        examples: of the data; None if that is not known.

    Returns:
        A failure if there are too few; nothing otherwise.
    """
    try:
        check_batch_size(batch_size, batch_size if examples is None else examples)
    except ConfigError as error:
        return [failure("data", str(error), "choose a smaller one with --batch-size")]
    return []


def has_data(task: Task, data_dir: Path | None) -> bool:
    """Say whether the data of a task can be loaded without a download.

    Args:
        task: the task.
        data_dir: folder with the data sets; None is the default folder.

    Returns:
        True also for data that are part of a package.
    """
    source, folder = source_of(task), data_folder(data_dir)
    return source is None or not source.missing(folder) or _class_folders(source, folder)


def source_of(task: Task) -> Source | None:
    """Find the data set that a task downloads.

    Args:
        task: the task.

    Returns:
        The data set; None if it is part of a package or comes from elsewhere.
    """
    load = task.data
    given = load.args if isinstance(load, functools.partial) else ()
    function = load.func if isinstance(load, functools.partial) else load
    of_module = getattr(sys.modules.get(function.__module__), "SOURCE", None)
    return next((value for value in (*given, of_module) if isinstance(value, Source)), None)


def _class_folders(source: Source, folder: Path) -> bool:
    return source.name == "cifar10" and (folder / "cifar10").is_dir()


def _count(data: Data) -> str:
    examples = length(data.train, 0)
    return f"{examples:,} examples" if examples else "a stream of examples"


def _bytes_of(data: Data) -> int:
    """Bytes of the splits that are in memory."""
    splits = [split for split in (data.train, data.validation, data.test) if isinstance(split, Split)]
    return sum(tensor.nbytes for split in splits for tensor in (split.inputs, split.labels))


def _to_download(source: Source, folder: Path, servers: Callable[[str], list[str]]) -> Found:
    _, nbytes, on_disk = SETS.get(source.name, ("", 0, 0))
    text = f"{source.name} is not in {folder}; join would download {nbytes / 1e6:.0f} MB"
    advice = f"get the files from {source.page} on another machine, and name their folder with --data-dir"
    if os.environ.get("https_proxy") or os.environ.get("http_proxy"):
        return Found(warning("data", f"{text} through your proxy, which was not tried", advice), on_disk, on_disk)
    hosts = [urlsplit(url) for url in servers(source.name)]
    for url in hosts:
        if _connects(url.hostname or "", url.port or (443 if url.scheme == "https" else 80)):
            return Found(ok("data", f"{text} from {url.hostname}, which answers"), on_disk, on_disk)
    names = ", ".join(sorted({url.hostname or "" for url in hosts})) or "its server"
    return Found(failure("data", f"{text}, but {names} cannot be reached from here", advice), on_disk)


def download_urls(name: str) -> list[str]:
    """Say from where torchvision downloads a data set.

    Args:
        name: of the data set, as in SETS.

    Returns:
        URLs; empty if it is unknown.
    """
    from torchvision import datasets  # slow to import

    known = getattr(datasets, SETS[name][0]) if name in SETS else None
    return list(getattr(known, "mirrors", None) or [u for u in (getattr(known, "url", None),) if u])


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS):
            return True
    except (OSError, UnicodeError):
        return False
