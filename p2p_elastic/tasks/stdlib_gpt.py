"""A small language model of bytes, on the source of Python's own standard library: nothing to download.

The model is GPT-2's (Radford et al. 2019): layers with LayerNorm before attention and MLP, learnt positions. Peers with
the same version of Python have the same text; with another one they have other text and the same model.
"""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from p2p_elastic.errors import ConfigError
from p2p_elastic.tasks.adamw import build_adamw
from p2p_elastic.tasks.base import Data, Recipe, Split, Task
from p2p_elastic.tasks.batch import Batch
from p2p_elastic.tasks.measures import Number, OfOutputs

CONTEXT = 128  # bytes
BYTES = 256
PACKAGES = ("", "asyncio", "collections", "email", "http", "importlib", "json", "logging", "unittest", "urllib", "xml")
TEXT_MAX = 8_000_000  # bytes of all files together
TEXT_MIN = 100_000
SHARE = 20  # one file of so many is for validation, another one for the test
VALIDATION_EXAMPLES, TEST_EXAMPLES = 128, 512
LAST_RATE = 0.1  # of the highest one
WARMUP = 50  # steps
PROMPT, SAMPLE_BYTES, TEMPERATURE = "def ", 240, 0.7


class Layer(nn.Module):
    """Causal attention and an MLP, each with LayerNorm before and a shortcut around it.

    Args:
        width: of the stream.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output.

        Args:
            x: [B, T, width].

        Returns:
            [B, T, width].
        """
        batch, length, width = x.shape
        parts = self.attention(self.norm1(x)).view(batch, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, length, width))
        found: Tensor = x + self.mlp(self.norm2(x))
        return found


class GPT(nn.Module):
    """A model of bytes.

    Args:
        width: of the stream.
        layers: how many.
        heads: of each attention.
    """

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.bytes, self.positions = nn.Embedding(BYTES, width), nn.Embedding(CONTEXT, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, BYTES, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor) -> Tensor:
        """Compute logits of the next bytes.

        Args:
            text: int64 [B, T], T <= CONTEXT.

        Returns:
            [B, T, 256].
        """
        places = torch.arange(text.shape[1], device=text.device)
        found: Tensor = self.head(self.norm(self.layers(self.bytes(text) + self.positions(places))))
        return found


def load(data_dir: Path | None) -> Data:  # noqa: ARG001 - Python is where it is
    """Read the standard library; files are for training, validation or test by their names.

    Args:
        data_dir: not used.

    Returns:
        The splits: inputs and labels uint8 [N, 128], a label is the next byte.

    Raises:
        ConfigError: if this Python has no source of it, such as one in a zip file.
    """
    return read(Path(sysconfig.get_paths()["stdlib"]))


def read(library: Path) -> Data:
    """Read Python files, and divide them.

    Args:
        library: folder of the standard library.

    Returns:
        The splits.

    Raises:
        ConfigError: if there is too little text.
    """
    texts: list[list[bytes]] = [[], [], []]
    total = 0
    for name, text in _files(library):
        total += len(text)
        if total > TEXT_MAX:
            break
        texts[max(0, 2 - hashlib.sha256(name.encode()).digest()[0] % SHARE)].append(text)
    whole = [b"".join(part) for part in texts]
    if total < TEXT_MIN or not all(len(part) > CONTEXT for part in whole):
        raise ConfigError("data", str(library), f"the source of Python's standard library there, {TEXT_MIN:,} bytes")
    train, validation, test = map(_windows, whole)
    return Data(train, _some(validation, VALIDATION_EXAMPLES), _some(test, TEST_EXAMPLES))


def _files(library: Path) -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for path in sorted((library / package).glob("*.py")):
            try:
                yield f"{package}/{path.name}", path.read_bytes()
            except OSError:  # a link to nowhere, as some systems have one
                continue


def _windows(text: bytes) -> Split:
    """Cut text into examples that do not overlap, but for the byte that is a label first and then an input."""
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    examples = (len(tokens) - 1) // CONTEXT
    inputs, labels = (tokens[start : start + examples * CONTEXT].view(examples, CONTEXT) for start in (0, 1))
    return Split(inputs, labels)


def _some(split: Split, examples: int) -> Split:
    """Take examples at even distances."""
    chosen = torch.linspace(0, len(split) - 1, min(examples, len(split))).long()
    return Split(split.inputs[chosen], split.labels[chosen])


def prepare(batch: Batch, generator: torch.Generator | None) -> Batch:  # noqa: ARG001 - no augmentation
    """Bytes as indices.

    Args:
        batch: inputs and labels, uint8 [B, T].
        generator: not used.

    Returns:
        Both as int64.
    """
    return batch[0].long(), batch[1].long()


def _losses(outputs: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(outputs.transpose(1, 2), batch[1], reduction="none").mean(dim=1)


def _mean_loss(outputs: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())


def _perplexity(outputs: Tensor, batch: Batch) -> dict[str, tuple[Number, Number]]:
    nats = functional.cross_entropy(outputs.flatten(0, 1), batch[1].flatten(), reduction="sum")
    return {"perplexity": (nats, batch[1].numel())}


def cosine(warmup: int) -> Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]:
    """Build a schedule that rises for some steps, and then falls along a cosine to a tenth.

    Args:
        warmup: steps.

    Returns:
        A function of optimizer and steps in all.
    """

    def factor(steps: int, step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return LAST_RATE + (1.0 - LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * done))

    return lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, partial(factor, steps))


@torch.no_grad()
def sample(model: nn.Module) -> str:
    """Let a model write a little; the same each time.

    Args:
        model: a GPT; it is left in its mode, and torch's random numbers as they were.

    Returns:
        The prompt, and what it wrote after it.
    """
    generator, training = torch.Generator().manual_seed(0), model.training
    model.eval()
    device = next(model.parameters()).device
    text = list(PROMPT.encode())
    for _ in range(SAMPLE_BYTES):
        logits = model(torch.tensor([text[-CONTEXT:]], device=device))[0, -1].float().cpu()
        text.append(int(torch.multinomial(torch.softmax(logits / TEMPERATURE, 0), 1, generator=generator)))
    model.train(training)
    written = bytes(text).decode("ascii", "replace")
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in written)


def _task(name: str, width: int, layers: int, heads: int, recipe: Recipe) -> Task:
    return Task(
        name=name,
        summary=f"source of Python's standard library, GPT of bytes, {layers} layers of {width}, no download",
        model=partial(GPT, width, layers, heads),
        data=load,
        recipe=recipe,
        loss=OfOutputs(_losses, mean=_mean_loss),
        metrics=OfOutputs(_perplexity),
        prepare=prepare,
        optimizer=build_adamw,
        scheduler=cosine(WARMUP),
        sample=sample,
    )


STDLIB_GPT = _task(
    *("stdlib-gpt", 96, 3, 4),
    Recipe(batch_size=16, learning_rate=3e-3, weight_decay=0.1, steps=600, clip=1.0, evaluation_batch=32),
)
STDLIB_GPT_SMALL = _task(
    *("stdlib-gpt-small", 200, 6, 8),
    Recipe(batch_size=32, learning_rate=1e-3, weight_decay=0.1, steps=5000, clip=1.0, evaluation_batch=32),
)
