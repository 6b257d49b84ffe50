"""Step 4: whether TF32 moves a likelihood, curves of 200 steps agree between precisions, and a seed repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.common import SIZES, arguments, make_stepper, precisions, tell
from benchmarks.gpu_check.speed import make_split
from data.batches import BatchOrder, gather
from data.corpus import Split
from study.config.training import TrainingSettings
from study.training.devices import choose_device
from study.training.evaluation import score
from study.training.step import Stepper


def curve(given: dict[str, Any], split: Split, values: dict[str, Any], steps: int) -> tuple[list[float], Stepper]:
    """Return the mean loss a sequence of each quarter of so many steps, and the stepper."""
    sizes = SIZES["quick" if given["quick"] else "PTB"]
    stepper = make_stepper(given, sizes, {"pooling": "max"}, values)
    order = BatchOrder(split.lengths, sizes.batch_size).epoch(0)
    sums = []
    for number in range(steps):
        batch = gather(split, order[number % len(order)]).to(stepper.device)
        sums.append(stepper(batch, 0.5)[0] / len(batch.lengths))
    losses = torch.stack(sums).cpu().numpy()
    return [float(part.mean()) for part in np.array_split(losses, 4)], stepper


def main() -> None:
    """Print the findings."""
    given = arguments("precision")
    sizes = SIZES["quick" if given["quick"] else "PTB"]
    split, steps = make_split(sizes), 8 if given["quick"] else 200
    steppers = {}
    for name, values in precisions(given).items():
        losses, steppers[name] = curve(given, split, values, steps)
        tell(given, f"{name}: loss by quarter of {steps} steps", ", ".join(f"{loss:.3f}" for loss in losses))
    _, twin = curve(given, split, precisions(given)["float32"], steps)
    same = all(
        torch.equal(one, other)
        for one, other in zip(steppers["float32"].network.parameters(), twin.network.parameters(), strict=True)
    )
    tell(given, "float32: the same seed gives the same weights, bit for bit", "yes" if same else "NO")
    found = {}
    for tf32 in (False, True):
        choose_device(TrainingSettings(device=given["device"], tf32=tf32))
        found[tf32] = score(twin.network, split, num_samples=8, num_sequences=200).metrics()["nll"]
    tell(given, "nll of one model, in float32", found[False])
    tell(given, "the same in TF32, less that (final numbers stay in float32 from 0.001 on)", found[True] - found[False])


if __name__ == "__main__":
    main()
