"""Every task by its name."""

from __future__ import annotations

from collections.abc import Iterator

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.base import Task
from p2p_elastic.tasks.cifar10 import CIFAR10
from p2p_elastic.tasks.cifar10_small import CIFAR10_CNN7, CIFAR10_RESNET20
from p2p_elastic.tasks.digits import DIGITS
from p2p_elastic.tasks.loading import FORMS, installed, is_place, load_installed, load_task
from p2p_elastic.tasks.mnist import FASHION_MNIST, MNIST, MNIST_SMALL
from p2p_elastic.tasks.stdlib_gpt import STDLIB_GPT, STDLIB_GPT_SMALL

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(CIFAR10, CIFAR10_CNN7, CIFAR10_RESNET20, DIGITS, FASHION_MNIST, MNIST, MNIST_SMALL),
        *(STDLIB_GPT, STDLIB_GPT_SMALL),
    )
}


def find_task(text: str) -> Task:
    """Find the task that a user means.

    Args:
        text: a name of `TASKS` or of an installed package's, or a place such as `./file.py:TASK`, whose code runs.

    Returns:
        The task.

    Raises:
        ConfigError: if there is none; it names those there are.
    """
    return load_task(text) if is_place(text) else _named(text)


def named_task(name: str, given: str | None = None) -> Task:
    """Find the task that somebody else names, such as a run: nothing but a name is looked up.

    Args:
        name: of the task.
        given: what this user gave, a name or a place; the task there is taken if it has that name.

    Returns:
        The task.

    Raises:
        ConfigError: if it is not here; it says what to give.
    """
    if given is not None and is_place(given):
        task = load_task(given)
        if task.name == name:
            return task
    return _named(name)


def every_task() -> Iterator[tuple[str, Task | ConfigError]]:
    """Go through all tasks that have a name here.

    Yields:
        Where each comes from, and the task, or what is wrong with it.
    """
    for task in TASKS.values():
        yield "built in", task
    for name, point in installed().items():
        if name not in TASKS:
            where = point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"
            try:
                yield where, load_installed(point)
            except ConfigError as error:
                yield where, error


def _named(name: str) -> Task:
    if name in TASKS:
        return TASKS[name]
    others = {} if is_place(name) else installed()
    if name not in others:
        allowed = f"allowed: {', '.join([*TASKS, *others])}, or --task {FORMS}"
        raise ConfigError("task", name, allowed)
    return load_installed(others[name])
