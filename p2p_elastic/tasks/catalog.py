"""Every task by its name."""

from __future__ import annotations

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.base import Task
from p2p_elastic.tasks.cifar10 import CIFAR10
from p2p_elastic.tasks.cifar10_small import CIFAR10_CNN7, CIFAR10_RESNET20
from p2p_elastic.tasks.digits import DIGITS
from p2p_elastic.tasks.mnist import FASHION_MNIST, MNIST, MNIST_SMALL

TASKS: dict[str, Task] = {
    task.name: task for task in (CIFAR10, CIFAR10_CNN7, CIFAR10_RESNET20, DIGITS, FASHION_MNIST, MNIST, MNIST_SMALL)
}


def find_task(name: str) -> Task:
    """Find the task of a name.

    Args:
        name: a key of `TASKS`.

    Returns:
        The task.

    Raises:
        ConfigError: if there is none; it names those there are.
    """
    if name not in TASKS:
        raise ConfigError("task", name, f"allowed: {', '.join(TASKS)}")
    return TASKS[name]
