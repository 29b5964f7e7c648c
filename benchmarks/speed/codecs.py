"""Codecs: bytes, error, and speed of encoding (with writing back what the other end decodes) and of decoding.

    python benchmarks/speed/codecs.py [--threads 1] [--repetitions 15] [--elements 25000000] [--data-dir DIR]
        [--json FILE]

Speed is GB of float32 per second, of the CPU time of the thread, so that other work on the machine counts for little:
of one chunk over and over (in cache), of a vector chunk by chunk, as a peer sends it, which comes from memory, and of
vectors with the tensors of ResNet-20 and of the digits MLP; `bytes` says what these two take on the wire. All codecs
take turns; what is given is the median of the repetitions, and their quartiles. Codecs are to use one thread
whatever --threads allows: `threads_used`. Errors are of normal numbers and of the weights of a trained net: the digits
MLP, and with --data-dir that of mnist-small.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.protocol.blocks import PIECE, Seams
from p2p_elastic.protocol.codecs import CODECS, Codec, seams_within
from p2p_elastic.simulator.looped import LoopedWorkers
from p2p_elastic.simulator.workers import Optimization
from p2p_elastic.tasks import Batches, find_task, initial_model

CHUNK = 2 * PIECE  # elements
VECTORS = {
    name: ParameterVector(initial_model(find_task(task), 0))
    for name, task in (("resnet20", "cifar10-resnet20"), ("digits-mlp", "digits"))
}
MODELS = {name: (vector.elements, vector.seams) for name, vector in VECTORS.items()}  # type: ignore[has-type]
CALLS = 50  # of one chunk, in one repetition
TRAINED_STEPS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--elements", type=int, default=25_000_000)
    parser.add_argument("--data-dir", type=Path, help="where MNIST is")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vectors = {"normal": normal(1 << 20), "digits": trained("digits", None)}
    if options.data_dir is not None:
        vectors["mnist-small"] = trained("mnist-small", options.data_dir)
    document = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": options.threads,
        "repetitions": options.repetitions,
        "chunk": CHUNK,
        "elements": options.elements,
        "bytes_per_element": {name: codec.nbytes(CHUNK) / CHUNK for name, codec in CODECS.items()},
        "error": {
            name: {data: error(codec, vector) for data, vector in vectors.items()} for name, codec in CODECS.items()
        },
        "threads_used": {name: threads_used(codec) for name, codec in CODECS.items()},
        "gb_per_second": {
            "chunk": speed(normal(CHUNK), options.repetitions, CALLS),
            "vector": speed(normal(options.elements), options.repetitions, 1),
            **{name: speed(normal(size), options.repetitions, CALLS, seams) for name, (size, seams) in MODELS.items()},
        },
        "bytes": {
            model: {name: sum(_sizes(codec, size, seams)) for name, codec in CODECS.items()}
            for model, (size, seams) in MODELS.items()
        },
    }
    text = json.dumps(document, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


def normal(elements: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(elements, generator=torch.Generator().manual_seed(1))


def trained(task_name: str, data_dir: Path | None) -> Tensor:
    """The parameters of one worker after `TRAINED_STEPS` steps of the task's recipe."""
    task = find_task(task_name)
    train, recipe = task.load(data_dir).train, task.recipe
    settings = Optimization("sgd", recipe.momentum, recipe.nesterov, recipe.weight_decay)
    worker = LoopedWorkers(initial_model(task, 0), task.loss, 1, settings)
    batches = Batches(train, recipe.batch_size, 1)
    for _ in range(TRAINED_STEPS):
        worker.gradients([task.prepare(next(batches), None)])
        worker.step(recipe.learning_rate)
    return worker.flat[0].clone()


def error(codec: Codec, vector: Tensor) -> dict[str, float]:
    """Of the whole vector: the L2 norm of the error, relative to it, and the largest one, relative to its rms."""
    arrived = vector.clone()
    codec.encode(arrived, torch.empty(codec.nbytes(len(vector)), dtype=torch.uint8))
    lost = arrived.double() - vector.double()
    rms = float(vector.double().square().mean().sqrt())
    return {
        "relative_l2": float(f"{float(lost.norm() / vector.double().norm()):.4g}"),
        "largest": float(f"{float(lost.abs().max()) / rms:.4g}"),
    }


def speed(vector: Tensor, repetitions: int, calls: int, seams: Seams = ()) -> dict[str, dict[str, list[float]]]:
    """GB/s of each codec: [lower quartile, median, upper quartile]."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for repetition in range(repetitions + 1):
        for name, codec in CODECS.items():
            for what, work in _work(codec, vector.clone(), seams).items():
                took = _time(work, calls)
                if repetition:  # the first one warms up
                    seconds.setdefault((name, what), []).append(took / calls)
    found: dict[str, dict[str, list[float]]] = {}
    for (name, what), values in seconds.items():
        rates = [vector.nbytes / 1e9 / one for one in values]
        found.setdefault(name, {})[what] = [round(one, 2) for one in statistics.quantiles(rates, n=4)]
    return found


def threads_used(codec: Codec) -> float:
    """CPU seconds of the process per CPU second of this thread; PyTorch's other threads also burn some by waiting."""
    encode = _work(codec, normal(CHUNK))["encode"]
    encode()
    time.sleep(0.5)  # for what waits since before
    process, thread = time.process_time(), time.thread_time()
    for _ in range(CALLS):
        encode()
    return round((time.process_time() - process) / (time.thread_time() - thread), 2)


def _work(codec: Codec, vector: Tensor, seams: Seams = ()) -> dict[str, Callable[[], None]]:
    chunks, sizes = torch.split(vector, CHUNK), _sizes(codec, len(vector), seams)
    inside = [seams_within(seams, start, start + CHUNK) for start in range(0, len(vector), CHUNK)]
    scratch, floats = torch.empty(max(sizes), dtype=torch.uint8), torch.empty(CHUNK)
    sent = [codec.encode(chunk, scratch, cuts).clone() for chunk, cuts in zip(chunks, inside, strict=True)]

    def encode() -> None:
        for chunk, cuts in zip(chunks, inside, strict=True):
            codec.encode(chunk, scratch, cuts)

    def decode() -> None:
        for piece, chunk, cuts in zip(sent, chunks, inside, strict=True):
            codec.decode(piece, floats[: len(chunk)], cuts)

    return {"encode": encode, "decode": decode}


def _sizes(codec: Codec, elements: int, seams: Seams) -> list[int]:
    """Bytes of each chunk."""
    ends = [(start, min(start + CHUNK, elements)) for start in range(0, elements, CHUNK)]
    return [codec.nbytes(stop - start, seams_within(seams, start, stop)) for start, stop in ends]


def _time(work: Callable[[], None], calls: int) -> float:
    work()
    began = time.thread_time()
    for _ in range(calls):
        work()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
