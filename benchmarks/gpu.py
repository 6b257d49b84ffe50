"""What a GPU makes of a training step: the whole table, by one command, on the machine that has one.

    python benchmarks/gpu.py

Steps at the field's PTB and Yahoo sizes in float32, TF32 and bfloat16: targets a second, their rate over that of the
output layer's product alone in the same precision (6 FLOPs a weight and target), kernels that wait for the host,
whether cuDNN runs the LSTMs, and that a memory fraction holds. `--device cpu` tries the command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.config import NetworkSettings, ObjectiveSettings
from model.objective import negative_elbo
from model.vae import SequenceVAE
from study.devices import autocast, choose_device, limit_gpu_memory
from study.optimizers import clip_gradients, make_optimizers
from study.settings import Settings, TrainingSettings

REPEATS, CALLS = 15, 10
VOCABULARY = 10_000


@dataclass(frozen=True)
class Sizes:
    """A set-up of the field: sequences and targets of a batch, and the network's sizes."""

    name: str
    batch_size: int
    num_targets: int
    embedding_size: int
    hidden_size: int
    latent_size: int


SIZES = (
    Sizes("ptb", 32, 22, 256, 256, 32),
    Sizes("ptb, batch 256", 256, 22, 256, 256, 32),
    Sizes("yahoo", 32, 79, 512, 1024, 32),
    Sizes("yahoo, batch 256", 256, 79, 512, 1024, 32),
)
PRECISIONS = {
    "float32": TrainingSettings(tf32=False),
    "TF32": TrainingSettings(tf32=True),
    "bfloat16": TrainingSettings(precision="bfloat16"),
}


def make_step(sizes: Sizes, training: TrainingSettings, device: torch.device) -> tuple[Callable[[], None], int]:
    """Return a training step as a study takes it, and the FLOPs that count of it."""
    torch.manual_seed(0)
    settings = NetworkSettings(embedding_size=sizes.embedding_size, hidden_size=sizes.hidden_size,
                               latent_size=sizes.latent_size, pooling="mean")  # fmt: skip
    network = SequenceVAE(settings, VOCABULARY).to(device).train()
    optimizers = make_optimizers(network, Settings(training=training.model_copy(update={"optimizer": "sgd"})))
    tokens = torch.randint(4, VOCABULARY, (sizes.batch_size, sizes.num_targets + 1), device=device)
    # On the CPU, where packing wants them.
    lengths = torch.full((sizes.batch_size,), sizes.num_targets + 1)
    sums = torch.zeros(2, device=device)

    def step() -> None:
        with autocast(device, training):
            posterior = network.encode(tokens, lengths)
            noise = torch.randn(sizes.batch_size, settings.noise_size, device=device)
            reconstruction = network.reconstruction(tokens, lengths, posterior.sample(noise))
            loss = negative_elbo(reconstruction, posterior.kl(), 1.0, ObjectiveSettings())
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_gradients(network.parameters(), 5.0)
        for optimizer in optimizers.values():
            optimizer.step()
        sums.add_(torch.stack([loss.detach(), norm]))

    multiplied = sum(each.numel() for name, each in network.named_parameters() if "embedding" not in name)
    return step, 6 * multiplied * sizes.batch_size * sizes.num_targets


def make_product(sizes: Sizes, training: TrainingSettings, device: torch.device) -> tuple[Callable[[], None], int]:
    """Return the output layer's three products, and their FLOPs."""
    rows = sizes.batch_size * sizes.num_targets
    dtype = torch.bfloat16 if training.precision == "bfloat16" else torch.float32
    states, weight, gradient = (
        torch.randn(shape, device=device, dtype=dtype)
        for shape in ((rows, sizes.hidden_size), (sizes.hidden_size, VOCABULARY), (rows, VOCABULARY))
    )

    def product() -> None:
        states @ weight, gradient @ weight.T, states.T @ gradient

    return product, 6 * rows * sizes.hidden_size * VOCABULARY


def seconds(work: Callable[[], None], device: torch.device, calls: int) -> float:
    """Return the seconds of a call, the device's part included."""
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    wait(device)
    return (time.perf_counter() - started) / calls


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps_waiting_for_the_host(step: Callable[[], None], device: torch.device) -> str:
    """Return what PyTorch says of a step that waits for the GPU, which it should nowhere."""
    if device.type != "cuda":
        return "-"
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return f"yes: {str(error).splitlines()[0]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def runs_cudnn(step: Callable[[], None], device: torch.device) -> str:
    """Say whether cuDNN runs the LSTMs of a step."""
    if device.type != "cuda":
        return "-"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    return "yes" if any(event.key == "aten::_cudnn_rnn" for event in profile.key_averages()) else "no"


def memory_fraction_holds(fraction: float = 0.25) -> str:
    """Say whether a process held to a fraction of the GPU's memory is refused more."""
    total = torch.cuda.get_device_properties(0).total_memory
    limit_gpu_memory(fraction)
    try:
        torch.empty(int(total * fraction * 1.1), dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return "yes"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return "no"


@click.command()
@click.option("--device", default="cuda", help="cuda or cpu.")
@click.option("--sizes", "wanted", default="", help="Only those whose name begins so.")
@click.option("--repeats", default=REPEATS)
@click.option("--calls", default=CALLS, help="Steps between two looks at the clock.")
def main(device: str, wanted: str, repeats: int, calls: int) -> None:
    """Print the table."""
    chosen = choose_device(TrainingSettings(device=device))
    about = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU"
    console = Console(width=140)
    console.print(
        f"{about}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {repeats} repeats of {calls} steps"
    )
    columns = ("sizes", "precision", "targets a second", "rate / its product's", "product, TFLOP/s", "waits", "cuDNN")
    table = Table(*columns, box=None)
    for sizes in [each for each in SIZES if each.name.startswith(wanted)]:
        for name, training in PRECISIONS.items():
            if chosen.type == "cpu" and name != "float32":
                continue
            choose_device(training.model_copy(update={"device": device}))
            (step, flops), (product, product_flops) = (
                make(sizes, training, chosen) for make in (make_step, make_product)
            )
            for _ in range(3):
                step(), product()
            waits, cudnn = steps_waiting_for_the_host(step, chosen), runs_cudnn(step, chosen)
            times = np.array([[seconds(work, chosen, calls) for work in (step, product)] for _ in range(repeats)])
            rates = (flops / times[:, 0]) / (product_flops / times[:, 1])
            low, middle, high = np.quantile(rates, (0.25, 0.5, 0.75))
            targets = sizes.batch_size * sizes.num_targets / np.median(times[:, 0])
            table.add_row(sizes.name, name, f"{targets:,.0f}", f"{middle:.2f} [{low:.2f}, {high:.2f}]",
                          f"{product_flops / np.median(times[:, 1]) / 1e12:.2f}", waits, cudnn)  # fmt: skip
    console.print(table)
    if chosen.type == "cuda":
        console.print(f"a memory fraction of 0.25 holds: {memory_fraction_holds()}")


if __name__ == "__main__":
    main()
