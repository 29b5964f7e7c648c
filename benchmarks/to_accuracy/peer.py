"""One peer of one system, started by to_accuracy.py: `python peer.py ORDER`, a JSON object (see `Order`).

All systems train the same model on the same batches in the same loop; what differs is `optimizer.step()`. While it
trains, a peer copies its parameters to disk now and then, with the moment (CLOCK_MONOTONIC, which all processes of a
machine share). Nobody evaluates anything here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from p2p_elastic.common.stop import Stop
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.tasks import Batches, Shard, Task, find_task, initial_model, shard_indices
from p2p_elastic.tasks.adamw import BETAS
from p2p_elastic.tasks.stdlib_gpt import WARMUP

if TYPE_CHECKING:  # a rival imports its own hivemind first, whole
    from p2p_elastic.node.status_board import StatusBoard

GROUP_SECONDS = 60.0  # to find the other peers, at the start


@dataclass(frozen=True)
class Order:
    """What a peer is to do. `rank` counts from 1; `initial` are the first peer's addresses, for the others."""

    system: str
    rank: int
    peers: int
    task: str
    data_dir: str
    batch_size: int
    seed: int
    init_seed: int
    every: float
    growth: float
    folder: str
    options: list[str]
    initial: list[str]

    @property
    def own(self) -> Path:
        """The folder of this peer; `folder` itself is for all of them."""
        return Path(self.folder) / f"peer-{self.rank}"


class Recorder:
    """Copies a model to disk every so many seconds, or by so much of the time since the beginning where that is more.

    So the moment at which something is reached is known to the same share of the time, however long it took.
    """

    def __init__(self, order: Order) -> None:
        self._order, self._steps, self._due = order, 0, float("inf")
        self._stop = Path(order.folder) / "stop"
        self._index = (order.own / "index.jsonl").open("w", buffering=1)
        self._began = float("nan")
        self._copy: torch.Tensor | None = None

    def begin(self) -> None:
        """Training begins now."""
        self._began = time.monotonic()
        self._due = self._began + self._order.every
        self._write(began=self._began)

    def step(self, trained: nn.Module | ParameterVector, **facts: Callable[[], object]) -> None:
        """A step was made. `facts` are asked for only when it is written down."""
        self._steps += 1
        now = time.monotonic()
        if now < self._due:
            return
        vector = ParameterVector(trained) if isinstance(trained, nn.Module) else trained
        self._copy = vector.snapshot(vector.empty() if self._copy is None else self._copy)
        name = f"{self._steps:07d}.f32"
        self._copy.numpy().tofile(self._order.own / name)
        self._write(at=now, step=self._steps, file=name, **{key: ask() for key, ask in facts.items()})
        self._due = now + max(self._order.every, self._order.growth * (now - self._began))

    def over(self) -> bool:
        """Whether the parent has seen enough."""
        return self._stop.exists()

    def _write(self, **line: object) -> None:
        self._index.write(json.dumps(line) + "\n")


# -- ours -------------------------------------------------------------------------------------------------------------


class Watching:
    """A screen (`p2p_elastic.screens.live.Screen`) that shows nothing: it is told of each step, and records."""

    def __init__(self, order: Order, recorder: Recorder, stop: Stop) -> None:
        self._order, self._recorder, self._stop = order, recorder, stop

    def say(self, event: str, text: str, **facts: Any) -> None:
        print(f"{time.monotonic():.3f} {event}: {text}", flush=True)
        if event == "listening":
            announce(self._order, facts["addresses"])

    def progress(self, status: StatusBoard, *, now: bool = False) -> None:
        self._stop.requested |= self._recorder.over()
        peer = status.peer
        if status.phase == "training" and peer is not None:
            self._recorder.step(peer.parts.vector, exchanges=lambda: peer.exchanges().model_dump(mode="json"))

    def close(self) -> None:
        pass


def joining(options: Sequence[str]) -> dict[str, Any]:
    """Options of `p2p-elastic join` as values. Raises click's errors."""
    from click.core import ParameterSource

    from p2p_elastic.cli.main import main as command

    context = command.commands["join"].make_context("join", list(options))
    return {k: v for k, v in context.params.items() if context.get_parameter_source(k) is not ParameterSource.DEFAULT}


def train_ours(order: Order, recorder: Recorder) -> None:
    """`p2p-elastic join` as it is, but for the screen."""
    from p2p_elastic.node.config import load_config
    from p2p_elastic.node.join import join
    from p2p_elastic.training.meter import Meter

    begin = Meter.begin

    def begun(meter: Meter) -> None:
        recorder.begin()
        begin(meter)

    Meter.begin = begun  # type: ignore[method-assign, assignment]
    fixed = ["--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--threads", "1", "--checkpoint-every", "0"]
    fixed += ["--steps", str(2**31), "--wait-for-peers", str(order.peers - 1), "--data-dir", order.data_dir]
    fixed += ["--output", str(order.own / "output"), "--shard", f"{order.rank}/{order.peers}"]
    fixed += ["--batch-size", str(order.batch_size), "--seed", str(order.seed)]
    whose = ["--initial-peer", order.initial[0]] if order.initial else ["--task", order.task]
    with Stop().signals() as stop:
        config = load_config(None, joining([*whose, *order.options, *fixed]))
        join(config, Watching(order, recorder, stop), stop)  # type: ignore[arg-type]  # what a peer needs of a Screen


# -- the others -------------------------------------------------------------------------------------------------------


def rival_options(system: str, options: Sequence[str]) -> argparse.Namespace:
    """What can be set of a rival; `system` is only for the usage line."""
    parser = argparse.ArgumentParser(prog=f"--{system}", allow_abbrev=False)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--momentum", type=float, default=0.9)
    if system.startswith("hivemind"):
        parser.add_argument("--target-batch-size", type=int, required=True, help="samples of all peers per epoch")
        parser.add_argument("--matchmaking-time", type=float, default=15.0, help="seconds")
        parser.add_argument("--request-timeout", type=float, help="seconds; half of --matchmaking-time by default")
        parser.add_argument("--averaging-timeout", type=float, default=60.0, help="seconds")
        parser.add_argument("--group", type=int, help="target_group_size; a full group need not wait for more")
        parser.add_argument("--refresh", type=float, help="seconds between looks at the progress of others")
        parser.add_argument("--average-state-every", type=int, default=1, help="epochs")
        parser.add_argument("--no-delay-state", action="store_true", help="delay_state_averaging=False")
        parser.add_argument("--delay-optimizer", action="store_true", help="delay_optimizer_step=True")
        parser.add_argument("--delay-gradients", action="store_true", help="delay_grad_averaging=True")
        parser.add_argument("--average-momentum", action="store_true", help="average_opt_statistics=momentum_buffer")
        parser.add_argument("--float16", action="store_true", help="compress what is averaged")
    return parser.parse_args(list(options))


def built(task: Task, options: argparse.Namespace, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """AdamW if the task brings an optimizer, and SGD otherwise; for parameters, or for groups of them."""
    if task.optimizer is not None:  # hivemind wants as many groups as it gave
        return torch.optim.AdamW(parameters, lr=options.lr, betas=BETAS, weight_decay=task.recipe.weight_decay or 0.0)
    return torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)


def train(
    order: Order,
    recorder: Recorder,
    model: nn.Module,
    optimizer: Any,
    before_step: Callable[[], None],
    *,
    over: Callable[[], bool],
    **facts: Callable[[], object],
) -> None:
    """The loop of the rivals: what `p2p_elastic.training.trainer.Trainer` does, without what it does besides."""
    task = find_task(order.task)
    data: Any = task.load(Path(order.data_dir))  # tensors in memory, with a length
    part = shard_indices(len(data.train), Shard(order.rank, order.peers))
    batches = Batches(data.train, order.batch_size, order.seed, part)
    torch.manual_seed(order.seed)  # dropout
    model.train()
    meet(order)
    recorder.begin()
    rates, clip = [group["lr"] for group in optimizer.param_groups], task.recipe.clip
    for step in itertools.count(1):
        if over():
            break
        optimizer.zero_grad()
        task.loss(model, task.prepare(next(batches), None)).mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if task.scheduler is not None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, step / WARMUP)
        before_step()
        optimizer.step()
        recorder.step(model, **facts)


def train_all_reduce(order: Order, recorder: Recorder) -> None:
    """Gradients are averaged over all before each step, in one flat bucket that they are views of, as in DDP."""
    from torch import distributed

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{order.folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=order.rank - 1, world_size=order.peers)
    model = initial_model(find_task(order.task), order.init_seed)
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    bucket = torch.zeros(sum(sizes) + 1)  # the last one: who wants to end; all do so after the same step
    for parameter, part in zip(parameters, bucket[:-1].split(sizes), strict=True):
        parameter.grad = part.view(parameter.shape)

    def average() -> None:
        bucket[-1] = float(recorder.over())
        distributed.all_reduce(bucket)
        bucket.div_(order.peers)

    optimizer = built(find_task(order.task), rival_options(order.system, order.options), parameters)
    optimizer.zero_grad = partial(optimizer.zero_grad, set_to_none=False)  # type: ignore[method-assign]
    train(order, recorder, model, optimizer, average, over=lambda: bool(bucket[-1] > 0))


def train_hivemind(order: Order, recorder: Recorder) -> None:
    """`hivemind.Optimizer`, with local updates or (its default) with accumulated gradients."""
    import hivemind
    from hivemind.compression import Float16Compression, NoCompression
    from hivemind.optim.grad_averager import GradientAverager

    options = rival_options(order.system, order.options)
    torch.set_num_threads(1)
    dht = hivemind.DHT(
        initial_peers=order.initial or None,
        host_maddrs=["/ip4/127.0.0.1/tcp/0"],
        use_relay=False,
        use_auto_relay=False,
        start=True,
    )
    announce(order, [str(address) for address in dht.get_visible_maddrs()])
    model = initial_model(find_task(order.task), order.init_seed)
    local = order.system == "hivemind-local"
    compression = Float16Compression() if options.float16 else NoCompression()
    matching: dict[str, Any] = {"request_timeout": options.request_timeout or options.matchmaking_time / 2}
    if options.group:
        matching["target_group_size"] = options.group
    looking = {} if options.refresh is None else {f"{which}_refresh_period": options.refresh for which in REFRESHES}
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="to-accuracy",
        params=model.parameters(),
        optimizer=partial(built, find_task(order.task), options),
        batch_size_per_step=order.batch_size,
        target_batch_size=options.target_batch_size,
        matchmaking_time=options.matchmaking_time,
        averaging_timeout=options.averaging_timeout,
        use_local_updates=local,
        delay_state_averaging=not options.no_delay_state,
        delay_optimizer_step=options.delay_optimizer or options.delay_gradients or None,
        delay_grad_averaging=options.delay_gradients,
        average_state_every=options.average_state_every,
        average_opt_statistics=["momentum_buffer"] if options.average_momentum else (),
        grad_compression=compression,
        state_averaging_compression=compression,
        grad_averager_factory=None if local else partial(GradientAverager, **matching),
        averager_opts=matching,
        tracker_opts=looking,
        verbose=True,
    )
    train(order, recorder, model, optimizer, lambda: None, over=recorder.over, epoch=lambda: optimizer.local_epoch)
    optimizer.shutdown()
    dht.shutdown()


REFRESHES = ("min", "default")
TRAIN = {
    "ours": train_ours,
    "hivemind-local": train_hivemind,
    "hivemind-gradients": train_hivemind,
    "all-reduce": train_all_reduce,
}


def announce(order: Order, addresses: Sequence[str]) -> None:
    """Say where the others can find us."""
    written = order.own / "addresses.part"
    written.write_text(json.dumps(list(addresses)))
    written.rename(order.own / "addresses.json")


def meet(order: Order) -> None:
    """Wait until all peers are ready: ours does so itself, with --wait-for-peers."""
    (Path(order.folder) / f"ready-{order.rank}").touch()
    end = time.monotonic() + GROUP_SECONDS
    while not all((Path(order.folder) / f"ready-{i + 1}").exists() for i in range(order.peers)):
        if time.monotonic() > end:
            sys.exit(f"the other peers were not ready within {GROUP_SECONDS:.0f} s")
        time.sleep(0.005)


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    TRAIN[order.system](order, Recorder(order))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
