"""What a peer does not load when it starts, and that nothing is missed by that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from p2p_elastic.common.timeouts import wait_for
from p2p_elastic.tasks import find_task
from p2p_elastic.testing.virtual_time import run_virtual
from p2p_elastic.training.adahessian import AdaHessian, set_gradients
from p2p_elastic.training.optimizers import SGD

pytestmark = pytest.mark.processes

NOT_LOADED = {
    *("hivemind.averaging", "hivemind.moe", "hivemind.optim", "matplotlib", "scipy", "sklearn", "sympy"),
    *("torch._dynamo", "torch._inductor", "torchvision"),
}

JOIN = """
import sys
from p2p_elastic.cli.main import main
arguments = "join --host 127.0.0.1 --port 0 --http-port 0 --threads 1 --steps 3 --log-format json --output".split()
main([*arguments, sys.argv[1]], standalone_mode=False)
print("LOADED", *sys.modules)
"""

HIVEMIND = """
import warnings
import p2p_elastic.peers.discovery.signed_dht
warnings.simplefilter("ignore")
import hivemind.p2p
from hivemind import DHT, Optimizer
import hivemind
print(hivemind.__version__, hivemind.p2p.P2P.__name__, hivemind.DHT is DHT, Optimizer.__module__)
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_peer_trains_without_what_it_does_not_need(tmp_path: Path) -> None:
    loaded = python(JOIN, str(tmp_path / "out")).rpartition("LOADED ")[2].split()
    assert {"torch", "hivemind.p2p", "fastapi"} <= set(loaded)
    assert not NOT_LOADED & set(loaded)


def test_hivemind_is_whole_for_whoever_else_uses_it_in_this_process() -> None:
    version, p2p, same, module = python(HIVEMIND).split()
    assert (p2p, same, module.partition(".")[0]) == ("P2P", "True", "hivemind")
    assert version[0].isdigit()


def test_the_digits_are_those_of_scikit_learn() -> None:
    data, theirs = find_task("digits").load(None), load_digits()
    splits = (data.train, data.validation, data.test)
    ours = [(bytes(x.numpy()), int(y)) for s in splits for x, y in zip(s.inputs, s.labels, strict=True)]
    images = theirs.images.astype("uint8")
    assert sorted(ours) == sorted((bytes(x), int(y)) for x, y in zip(images, theirs.target, strict=True))


def trained(optimizer: type[torch.optim.SGD], **options: float | bool) -> Iterator[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Linear(5, 3)
        inputs = torch.randn(20, 4, 5)
    made = optimizer(model.parameters(), lr=0.1, **options)  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.MultiStepLR(made, [7], 0.1)
    for number, batch in enumerate(inputs):
        made.zero_grad()
        model(batch).square().mean().backward()
        made.step()
        schedule.step()
        if number == 10:
            made.load_state_dict(made.state_dict())
        yield torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}])
def test_sgd_is_that_of_torch_bit_for_bit(options: dict[str, float | bool]) -> None:
    for ours, theirs in zip(trained(SGD, **options), trained(torch.optim.SGD, **options), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", [SGD, AdaHessian])
def test_hooks_and_closures_of_an_optimizer_work(optimizer: type[torch.optim.Optimizer]) -> None:
    parameter, seen = nn.Parameter(torch.ones(2)), []
    made = optimizer([parameter], lr=0.5)  # type: ignore[call-arg]
    made.register_step_post_hook(lambda *_: seen.append(parameter.tolist()))

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        made.zero_grad()
        return set_gradients(made, lambda: parameter.square().sum())

    made.step(closure)  # type: ignore[arg-type]
    assert seen == [parameter.tolist()]
    assert parameter.tolist() != [1.0, 1.0]


def test_a_wait_ends_with_its_result_or_at_its_deadline_and_then_cancels_what_it_waited_for() -> None:
    async def main() -> None:
        assert await wait_for(asyncio.sleep(1.0, "done"), 2.0) == "done"
        late = asyncio.ensure_future(asyncio.sleep(9.0))
        with pytest.raises(asyncio.TimeoutError):
            await wait_for(late, 2.0)
        assert late.cancelled()
        assert asyncio.get_running_loop().time() == 3.0

    run_virtual(main())


def test_a_cancellation_that_arrives_with_the_result_is_not_lost() -> None:
    async def main() -> None:
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(wait_for(result, 5.0))
        await asyncio.sleep(0.1)
        result.set_result("done")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run_virtual(main())
