"""Step 3: what a training step takes at the field's sizes, and what of it is launches, batches and precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.gpu_check.common import SIZES, Sizes, arguments, make_stepper, precisions, random_batch, tell
from data.batches import Batch, BatchOrder, iterate
from data.corpus import Split
from study.training.devices import limit_gpu_memory
from study.training.step import Stepper

ROWS = 4000


def seconds(work: Callable[[], object], device: torch.device, calls: int, repeats: int) -> float:
    """Return the median seconds of a call, the device's part included."""
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        times.append((time.perf_counter() - started) / calls)
    return float(np.median(times))


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_product(sizes: Sizes, precision: str, device: torch.device) -> tuple[Callable[[], None], int]:
    """Return the output layer's three products alone, and their FLOPs."""
    rows, dtype = sizes.batch_size * sizes.num_targets, torch.bfloat16 if precision == "bfloat16" else torch.float32
    states, weight, gradient = (
        torch.randn(shape, device=device, dtype=dtype)
        for shape in (
            (rows, sizes.hidden_size),
            (sizes.hidden_size, sizes.vocabulary_size),
            (rows, sizes.vocabulary_size),
        )
    )

    def product() -> None:
        states @ weight, gradient @ weight.T, states.T @ gradient

    return product, 6 * rows * sizes.hidden_size * sizes.vocabulary_size


def make_split(sizes: Sizes, *, vary: bool = False) -> Split:
    """Return sequences of as many targets as a batch's, or of up to as many, as they lie in a prepared corpus."""
    draw = np.random.default_rng(0)
    longest = sizes.num_targets - 1
    lengths = draw.integers(max(1, longest // 2), longest + 1, ROWS) if vary else np.full(ROWS, longest)
    tokens = [draw.integers(4, sizes.vocabulary_size, length) for length in lengths]
    column = pa.array([each.tolist() for each in tokens], pa.list_(pa.int32()))
    return Split("train", [pa.record_batch({"tokens": column, "num_bytes": pa.array([1] * ROWS, pa.int64())})])


def endless(split: Split, sizes: Sizes, ahead: int) -> Iterator[Batch]:
    """Yield batches of epoch after epoch, as training does."""
    order, number = BatchOrder(split.lengths, sizes.batch_size), 0
    while True:
        yield from iterate(split, order.epoch(number), 0, ahead)
        number += 1


def launches(work: Callable[[], object], device: torch.device) -> int:
    """Count the kernels of a step; on a CPU, PyTorch's operators."""
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CUDA if device.type == "cuda" else kind.CPU]) as profile:
        work()
        wait(device)
    return sum(1 for event in profile.events() if device.type == "cpu" or event.device_type.name == "CUDA")


def waits(work: Callable[[], object], device: torch.device) -> str:
    """Return what PyTorch says of a step that waits for the GPU, which none should."""
    if device.type != "cuda":
        return "not asked on a CPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        return f"YES: {str(error).splitlines()[0]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def count_flops(stepper: Stepper, sizes: Sizes) -> int:
    """Return the FLOPs of a step: 6 a weight and token, embeddings not counted."""
    weights = sum(each.numel() for name, each in stepper.network.named_parameters() if "embedding" not in name)
    return 6 * weights * sizes.batch_size * sizes.num_targets


def measure(given: dict[str, Any], name: str, precision: str, calls: int, repeats: int) -> None:
    """Print the findings of one size and precision."""
    sizes, values = SIZES[name], precisions(given)[precision]
    stepper = make_stepper(given, sizes, {"pooling": "mean"}, values)
    device = stepper.device
    tokens, lengths = random_batch(sizes)
    batch = Batch(tokens, lengths, np.arange(len(tokens))).to(device)

    def step() -> None:
        stepper(batch, 0.5)

    product, product_flops = make_product(sizes, precision, device)
    for _ in range(3):
        step(), product()
    plain = seconds(step, device, calls, repeats)
    alone = seconds(product, device, calls, repeats)
    targets = sizes.batch_size * sizes.num_targets
    rate = count_flops(stepper, sizes) / plain / (product_flops / alone)
    label = f"{name}, {precision}"
    tell(given, f"{label}: targets a second", f"{targets / plain:,.0f}")
    tell(given, f"{label}: share of its output product's rate ({product_flops / alone / 1e12:.1f} TFLOP/s)", rate)
    if precision == "float32":
        tell(given, f"{label}: launches a step", launches(step, device))
        tell(given, f"{label}: a step waits", waits(step, device))
        split = make_split(sizes)
        for ahead in (0, 2):
            batches = endless(split, sizes, ahead)
            gathered = seconds(lambda feed=batches: stepper(next(feed).to(device), 0.5), device, calls, repeats)
            tell(given, f"{label}: with batches made {ahead} ahead / with one at hand, time", gathered / plain)
            batches.close()


def measure_graph(given: dict[str, Any], name: str, precision: str, calls: int, repeats: int) -> None:
    """Print what a recorded step takes, and whether it trains as a plain one: batches of several lengths, two rates."""
    sizes, values, steppers, feeds, sums = SIZES[name], precisions(given)[precision], {}, {}, {}
    label, undisturbed = f"{name}, {precision}", {"pooling": "mean", "input_dropout": 0.0, "output_dropout": 0.0}
    for graph in (False, True):
        steppers[graph] = make_stepper(given, sizes, undisturbed, {**values, "cuda_graph": graph})
        feeds[graph] = endless(make_split(sizes, vary=True), sizes, 2)
        losses = []
        for number in range(24):
            if number == 12:
                steppers[graph].set_learning_rate(0.5)
            losses.append(steppers[graph](next(feeds[graph]).to(steppers[graph].device), 0.5)[0].clone())
        sums[graph] = torch.stack(losses)
    apart = float(((sums[True] - sums[False]) / sums[False]).abs().max())
    tell(given, f"{label}: loss of 24 recorded steps, furthest from plain ones, relative", f"{apart:.1e}")
    plain, recorded = (
        seconds(
            lambda chosen=graph: steppers[chosen](next(feeds[chosen]).to(steppers[chosen].device), 0.5),
            steppers[graph].device,
            calls,
            repeats,
        )
        for graph in (False, True)
    )
    for feed in feeds.values():
        feed.close()
    tell(given, f"{label}: plain / as a graph, time (on from 1.3 at PTB)", plain / recorded)


def memory_fraction_holds(share: float = 0.25) -> str:
    """Say whether a process held to a share of the GPU's memory is refused more."""
    total = torch.cuda.get_device_properties(0).total_memory
    limit_gpu_memory(share)
    try:
        torch.empty(int(total * share), dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return "yes"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return "NO"


def main() -> None:
    """Print the findings."""
    given = arguments("speed")
    calls, repeats = (2, 3) if given["quick"] else (20, 5)
    for name in ("quick",) if given["quick"] else SIZES:
        for precision in precisions(given):
            measure(given, name, precision, calls, repeats)
    if given["device"] == "cuda":
        tell(given, "a process' share of memory holds", memory_fraction_holds())
        # Last: what fails here takes nothing else with it.
        for name in SIZES:
            for precision in ("TF32", "bfloat16"):
                measure_graph(given, name, precision, calls, repeats)


if __name__ == "__main__":
    main()
