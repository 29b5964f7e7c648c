"""Second derivatives: how to have them, and which operations have none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from p2p_elastic.errors import ConfigError

MISSING = re.compile(r"not implemented|twice|double backward|no autograd formula|use_reentrant")
"""PyTorch's messages if an operation cannot be differentiated twice; it has no error class for that."""
CHECKPOINT, COMPILED = "CheckpointFunction", "CompiledFunction"
ADVICE = {
    "ScaledDotProduct": "run the forward pass in `with twice_differentiable():`",
    "EmbeddingBag": "take nn.Embedding, and the mean or the sum over each bag",
    COMPILED: "give it the module itself, not what torch.compile made of it",
    "CudnnRnn": "run the forward pass in `with torch.backends.cudnn.flags(enabled=False):`",
    CHECKPOINT: "checkpoint with use_reentrant=False",
}
"""What to do, by how the operation's name begins in PyTorch's graph."""
OTHERWISE = "write it with differentiable operations"
ONCE = once_differentiable(lambda _: None).__code__


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run the forward pass with kernels that have a second derivative: attention takes the plain one, not a fused one.

    PyTorch chooses fused kernels if there is no dropout, such as for `nn.TransformerEncoderLayer(dropout=0)`. The plain
    kernel takes the memory of the attention weights. Everything else is as without it. Process-wide while it lasts, as
    PyTorch has it.

    Yields:
        Nothing.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


def refusal(error: RuntimeError, loss: Tensor, names: Mapping[Tensor, str]) -> ConfigError | None:
    """The error that names what cannot be differentiated twice.

    Args:
        error: what a derivative of the loss ended with, first or second.
        loss: with its graph.
        names: of the parameters.

    Returns:
        The error to raise; None if `error` is about something else.
    """
    message = str(error)
    if not MISSING.search(message):
        return None
    for node in _nodes(loss):
        if _is_meant(node, message):
            return refused(node, names)
    return ConfigError("model", message.splitlines()[0], _instead(OTHERWISE))


def refused(node: Node, names: Mapping[Tensor, str]) -> ConfigError:
    """The error for an operation, under the name of the parameter that is next to it.

    Args:
        node: of the operation, in PyTorch's graph.
        names: of the parameters.

    Returns:
        The error to raise, with advice.
    """
    kind = _kind(node)
    advice = next((advice for start, advice in ADVICE.items() if kind.startswith(start)), OTHERWISE)
    near = (names.get(variable) for variable in map(_variable, _nodes_from(node)) if variable is not None)
    return ConfigError(next((name for name in near if name), "model"), kind, _instead(advice))


def silent(loss: Tensor) -> Node | None:
    """Find an operation whose second derivative is missing without an error, since PyTorch looks only along the graph.

    Behind `once_differentiable` the graph ends, so that the curvature counts as zero; what a reentrant checkpoint uses
    is not in the graph, so that its parameters count as unused.

    Args:
        loss: with its graph.

    Returns:
        Its node; None if there is none.
    """
    return next((node for node in _nodes(loss) if _is_once(node) or _kind(node) == CHECKPOINT), None)


def _instead(advice: str) -> str:
    """What to do about it."""
    without = "or freeze the parameters up to it, or take another optimizer"
    return f"AdaHessian differentiates twice, and this has no second derivative: {advice}, {without}"


def _is_meant(node: Node, message: str) -> bool:
    kind = _kind(node)
    if "aot_autograd" in message:
        return kind == COMPILED
    # "dense": PyTorch 2.3 of EmbeddingBag.
    return re.search(f"{re.escape(kind)}(dense)?backward", message.replace("_", ""), re.IGNORECASE) is not None


def _is_once(node: Node) -> bool:
    backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
    return getattr(backward, "__code__", None) is ONCE


def _kind(node: Node) -> str:
    """The operation: "EmbeddingBag" of EmbeddingBagBackward0."""
    return node.name().rstrip("0123456789").removesuffix("Backward")


def _variable(node: Node) -> Tensor | None:
    """The parameter that a leaf of the graph stands for."""
    found: Tensor | None = getattr(node, "variable", None)
    return found


def _nodes(loss: Tensor) -> Iterator[Node]:
    return iter(()) if loss.grad_fn is None else _nodes_from(loss.grad_fn)


def _nodes_from(start: Node) -> Iterator[Node]:
    """From there towards the leaves, the nearest ones first."""
    seen, now = {start}, [start]
    while now:
        yield from now
        found = dict.fromkeys(node for one in now for node, _ in one.next_functions if node is not None)
        now = [node for node in found if node not in seen]
        seen.update(now)
