"""Runs one simulation from beginning to end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from p2p_elastic import __version__
from p2p_elastic.errors import ConfigError
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.rules.methods import RULES, Topology
from p2p_elastic.simulator.assembly import BuildRound, build_round
from p2p_elastic.simulator.config import Loop, Point, Scores, SimulationConfig, SimulationResult
from p2p_elastic.simulator.failures import FaultInjector
from p2p_elastic.simulator.feed import Feed, resident
from p2p_elastic.simulator.judging import Judging
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.outer import OuterSteps
from p2p_elastic.simulator.sending import Moves
from p2p_elastic.simulator.workers import Optimization, StackedWorkers, Workers, loop_is_faster
from p2p_elastic.tasks import Data, Evaluation, Task, evaluate, find_task, initial_model, reestimate_batchnorm
from p2p_elastic.tasks.adamw import build_adamw
from p2p_elastic.training.settings import OWN_LEARNING_RATES

OnProgress = Callable[[int, int, Point | None], None]
"""(steps done, steps in all, the point that was just reached or None), after each step."""

LEADER_LOSSES = 10  # minibatches whose mean loss chooses a leader (the authors' code of Leader SGD)
COLLECTIVE = (Topology.LEADER, Topology.CENTRE_TOGETHER, Topology.EVERYBODY)  # all workers at the same step


def _nothing(_step: int, _steps: int, _point: Point | None) -> None:
    return None


def simulate(
    config: SimulationConfig,
    data: Data,
    device: torch.device | str,
    *,
    clock: Callable[[], float],
    progress: OnProgress = _nothing,
    should_stop: Callable[[], bool] = lambda: False,
    loop: Loop = "auto",
    build: BuildRound = build_round,
) -> SimulationResult:
    """Train `config.workers` models together on one device, in lock step.

    Every worker begins with `initial_model(task, 0)`. A step t = 1, 2, ... is: failures are drawn, due workers
    exchange, gradients at the parameters before, optimizer step, moves are added; or, if the method says so, the
    exchange comes after the step. The same configuration and device type give the same numbers.

    A simulation that diverges goes on to its end: no number of a worker is an error.

    Args:
        config: what is simulated.
        data: that of `config.task`.
        device: on which all workers train.
        clock: seconds from any beginning, such as `time.monotonic`.
        progress: called after each step.
        should_stop: asked before each step and within evaluations; the result is then what was done by then.
        loop: train all workers in each operation ("stacked") or one after the other ("looped"), see `workers`; "auto"
            is what is faster. The numbers agree to rounding, except that dropout draws other masks.
        build: builds the communication round, such as one in which some workers lie.

    Returns:
        The evaluations and counts.

    Raises:
        ConfigError: if there are more workers than examples.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # For dropout. torch.manual_seed reseeds all accelerators, for good.
        (torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed)(config.seed)
        return _Simulation(config, data, device, loop, build).run(clock, progress, should_stop)


class _Simulation:
    def __init__(
        self, config: SimulationConfig, data: Data, device: torch.device, loop: Loop, build: BuildRound
    ) -> None:
        self._config, self._device = config, device
        task = find_task(config.task)
        if task.exchange != "trainable":
            raise ConfigError(
                "task", task.name, "one whose exchange is 'trainable': a simulation moves all that trains"
            )
        train, test = _splits(task, data, device)
        self._feed = Feed(config, task, train, device)
        self._workers = _workers(config, task, device, loop)
        self._flat = self._workers.flat
        self._judging: Judging | None = None
        if config.weighting == "dynamic":
            self._judging = Judging(initial_model(task, 0).to(device), task.loss, config.workers)
        workers = self._workers
        self._round = build(config, self._flat, workers.trainable, self._judging, seams=workers.seams)
        outer = config.outer_optimizer
        self._outer = None if outer is None else OuterSteps(outer, self._flat, workers.trainable)
        self._faults = FaultInjector(config.failures, self._flat, config.seed)
        self._judge = _Judge(task, train, test, device)
        self._coins = [random.Random(f"{config.seed} due {worker}") for worker in range(config.workers)]
        epochs = config.epochs or task.recipe.epochs
        self._steps = (
            config.steps or (None if config.epochs else task.recipe.steps) or epochs * self._feed.batches_per_epoch
        )
        self._rate_at = _rates(config, task, self._steps, self._feed.batches_per_epoch)
        self._recent = self._flat.new_full((LEADER_LOSSES, config.workers), torch.nan)
        self._losses: list[Tensor] = []

    @property
    def _topology(self) -> Topology:
        return RULES[self._config.rule].topology

    def run(
        self, clock: Callable[[], float], progress: OnProgress, should_stop: Callable[[], bool]
    ) -> SimulationResult:
        began, points = clock(), list[Point]()
        every = self._config.evaluate_steps or self._feed.batches_per_epoch
        done = 0
        while done < self._steps and not should_stop():
            self._step(done + 1)
            done += 1
            point = self._point(done, should_stop) if done % every == 0 or done == self._steps else None
            points += [point] if point else []
            progress(done, self._steps, point)
        return SimulationResult(
            version=__version__,
            config=self._config,
            device=str(self._device),
            parameters=self._flat.shape[1],
            steps=done,
            seconds=clock() - began,
            points=tuple(points),
            faults=dict(+self._faults.counts),
            leaders=dict(sorted((+self._round.leaders).items())),
        )

    def _step(self, step: int) -> None:
        active = self._faults.begin()
        batches = self._feed.draw(active, self._faults.flip_)
        finite = torch.isfinite(self._flat.sum(dim=1)).tolist()  # a live peer neither sends nor takes what is not
        asking = self._due(step, active)
        due = [row for row in self._faults.exchanging(asking) if finite[row]]
        connected = [row for row in self._faults.connected if finite[row]]
        if self._judging is not None:
            taken = [self._feed.drawn(worker) for worker in range(self._config.workers)]
            self._judging.observe(batches, self._recent.nanmean(dim=0).tolist(), taken)
        # Before the gradients, since a forward pass changes BatchNorm's statistics in `flat`.
        moves = self._round.moves(self._flat, due, connected, step)
        losses = self._workers.gradients(batches)
        if self._topology is Topology.GRADIENTS:
            self._all_reduce(due)
        self._faults.step(self._workers, self._rate_at(step), active)
        self._round.settle_(self._flat, due, connected, step, self._recent_losses(losses, needed=bool(due)))
        self._workers.add_(moves)  # last, since it repairs variances too
        self._outer_steps(moves, [row for row in asking if finite[row]])
        for row in self._faults.damage(self._workers, step):
            self._round.forget(row, self._flat)
            if self._outer is not None:
                self._outer.restart(row, self._flat)
        if self._judging is not None:
            self._judging.restart(self._faults.restarted)
        self._losses.append(losses.mean())

    def _outer_steps(self, moves: Moves, asking: list[int]) -> None:
        if self._outer is not None:
            weights = None if self._judging is None else self._judging.weights
            self._outer.step_(self._flat, moves, asking, weights)

    def _due(self, step: int, active: int) -> list[int]:
        """The workers that ask for an exchange after their own step, or all at once."""
        schedule = self._config.schedule
        if self._topology is Topology.NOBODY and self._outer is None:
            return []
        if self._topology is Topology.GRADIENTS:
            return list(range(active))
        if self._topology in COLLECTIVE:
            return list(range(self._config.workers)) if schedule.due(step, self._coins[0]) else []
        drawn = self._feed.drawn
        return [worker for worker in range(active) if schedule.due(drawn(worker), self._coins[worker])]

    def _all_reduce(self, rows: list[int]) -> None:
        """Average the gradients of these workers, AdaHessian's curvatures too; in a ring each sends 2 (n - 1) / n."""
        if len(rows) > 1:
            self._workers.average_gradients(rows)
            vectors = 2 if self._config.optimizer == "adahessian" else 1
            size = vectors * self._workers.trainable * self._flat.element_size()
            self._round.traffic.exchanges += 1
            self._round.traffic.worker_bytes += 2 * (len(rows) - 1) * size

    def _recent_losses(self, losses: Tensor, *, needed: bool) -> list[float]:
        """The mean of each worker's last minibatch losses; infinite if one of them was not finite."""
        if self._topology is not Topology.LEADER and self._judging is None:
            return []
        mine = self._recent[:, : len(losses)]
        mine.copy_(mine.roll(1, dims=0))
        mine[0] = losses.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        return [float(loss) for loss in self._recent.nanmean(dim=0).tolist()] if needed else []

    def _point(self, step: int, stop: Callable[[], bool]) -> Point | None:
        """An evaluation of all workers, or None if `stop` said yes before it was complete."""
        mean = self._flat.mean(dim=0)
        centre = self._round.centre
        found = [self._judge.evaluate(row, stop) for row in self._flat]
        average = self._judge.evaluate(mean, stop, fresh_statistics=True)
        of_centre = None if centre is None else self._judge.evaluate(centre, stop, fresh_statistics=True)
        workers = [one for one in found if one is not None]
        if average is None or len(workers) < len(found) or (centre is not None and of_centre is None):
            return None
        loss, self._losses = float(torch.stack(self._losses).mean()), []
        return Point(
            step=step,
            epoch=self._feed.drawn(0) / self._feed.batches_per_epoch,
            bytes_per_worker=self._round.traffic.worker_bytes / len(self._flat),
            exchanges=self._round.traffic.exchanges,
            training_loss=loss if math.isfinite(loss) else None,
            metrics=_scores(workers, average, of_centre),
            consensus_distance=_consensus_distance(self._flat, mean),
        )


class _Judge:
    """Evaluations on the test split of any row of parameters, through one plain model."""

    def __init__(self, task: Task, train: Dataset[Any], test: Dataset[Any], device: torch.device) -> None:
        self._task, self._train, self._test, self._device = task, train, test, device
        self._model = initial_model(task, 0).to(device)
        self._vector = ParameterVector(self._model)

    def evaluate(
        self, values: Tensor, stop: Callable[[], bool], *, fresh_statistics: bool = False
    ) -> Evaluation | None:
        """None if `stop` said yes. BatchNorm's statistics are those in `values` [D], or re-estimated."""
        if stop():
            return None
        self._vector.load_(values)
        if fresh_statistics:
            reestimate_batchnorm(self._model, self._task, self._train, self._device)
        return evaluate(self._model, self._task, self._test, self._device, stop=stop)


def _workers(config: SimulationConfig, task: Task, device: torch.device, loop: Loop) -> Workers:
    recipe = task.recipe
    decay = recipe.weight_decay if config.weight_decay is None else config.weight_decay
    settings = Optimization(
        config.optimizer,
        config.momentum_of(recipe),
        recipe.nesterov,
        decay,
        config.seed,
        build={"sgd": task.optimizer, "adamw": build_adamw}.get(config.optimizer),
        clip=recipe.clip,
    )
    model = initial_model(task, 0).to(device)
    # Such optimizers are of one model each.
    one_by_one = config.optimizer == "muon" or settings.build is not None or settings.clip is not None
    looped = one_by_one or loop == "looped" or (loop == "auto" and loop_is_faster(model, device))
    kind = LoopedWorkers if looped else StackedWorkers
    return kind(model, task.loss, config.workers, settings)


def _rates(config: SimulationConfig, task: Task, steps: int, batches_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of a step, from 1 on."""
    default = OWN_LEARNING_RATES.get(config.optimizer, task.recipe.learning_rate)
    rate = default if config.learning_rate is None else config.learning_rate
    factor_at = _factors(config, task, steps, batches_per_epoch)
    return lambda step: float(rate * factor_at(step) / (1.0 + config.lr_decay * (step - 1)) ** 0.5)


def _factors(config: SimulationConfig, task: Task, steps: int, batches_per_epoch: int) -> Callable[[int], float]:
    """What the learning rate of a step, from 1 on, is multiplied by: by the recipe, or by the task's schedule."""
    if task.scheduler is None or config.milestones is not None:
        return lambda step: task.recipe.rate_at(step - 1, (step - 1) / batches_per_epoch, config.milestones)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # of a rate of 1: what the schedule gives are factors
    scheduler = task.scheduler(optimizer, steps)
    factors = []
    for _ in range(steps):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return lambda step: float(factors[step - 1])


def _splits(task: Task, data: Data, device: torch.device) -> tuple[Dataset[Any], Dataset[Any]]:
    """The examples to train on, and those to evaluate with."""
    test = data.validation if data.test is None else data.test
    if test is None:
        raise ConfigError("task", task.name, "a task with a test split, or at least a validation split, to simulate")
    return resident(device, data.train), resident(device, test)


def _scores(workers: list[Evaluation], average: Evaluation, centre: Evaluation | None) -> dict[str, Scores]:
    def of(name: str) -> Scores:
        each, mean, held = (_value(one, name) for one in (workers, [average], [] if centre is None else [centre]))
        return Scores(workers=each, average=mean[0], centre=held[0] if held else None)

    return {name: of(name) for name in (*average.metrics, "loss")}


def _value(found: list[Evaluation], name: str) -> tuple[float, ...]:
    return tuple(one.loss if name == "loss" else one.metrics[name] for one in found)


def _consensus_distance(flat: Tensor, mean: Tensor) -> float:
    """The root mean square of the rows' distances to their mean, row by row for the memory."""
    return float(torch.stack([(row - mean).square().sum() for row in flat]).mean().sqrt())
