"""Where a trial computes: CPU or GPU, its precision, and its share of a GPU's memory.

The CUDA branches have not been run on a GPU by the tests; their logic is covered on the CPU.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from study.config.training import TrainingSettings
from study.errors import StudyError
from study.training.gpus import CONTEXT_BYTES


def choose_device(settings: TrainingSettings, share: float | None = None) -> torch.device:
    """Return the device asked for, or the GPU if there is one; set TF32 or large pages. Raises StudyError.

    `share` is the part of a GPU that a study gave its trial: a trial with none of it trains on the CPU whatever the
    machine has, which Ray does not hide.
    """
    available = torch.cuda.is_available()
    if share and not available and settings.device != "cpu":
        raise StudyError(
            f"this trial was given {share:g} of a GPU, but PyTorch {torch.__version__} shows none on"
            f" {os.uname().nodename}; install the build for its driver, or give --gpus-per-trial 0"
        )
    if settings.device == "auto":
        device = torch.device("cuda" if available and share != 0 else "cpu")
    else:
        device = torch.device(settings.device)
    if settings.precision == "bfloat16" and device.type == "cpu":
        raise StudyError("training.precision bfloat16 needs a CUDA device, this trial is on the CPU; use float32")
    if device.type == "cuda":
        count = torch.cuda.device_count() if available else 0
        if (device.index or 0) >= count:
            raise StudyError(
                f"training.device is {settings.device}, but this machine shows {count} CUDA devices;"
                " use --set training.device=cpu, or check the driver with nvidia-smi"
            )
        # Where CUDA does what is not told otherwise: recording, pinning, limits.
        torch.cuda.set_device(device)
        # Without it cuBLAS may add up in another order from call to call, and so may cuDNN's LSTM.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        use_tf32(settings.tf32)
    else:
        use_large_pages()
    return device


def use_tf32(wanted: bool) -> None:
    """Have a GPU multiply matrices with 10 bits of mantissa, or in full float32 as final numbers want."""
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def use_large_pages() -> None:
    """Have PyTorch put large CPU tensors on pages of 2 MB, where Linux grants them; before any tensor is made.

    The logits of a step are tens of megabytes, and so are its gradients: fewer pages to map and to look up.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def autocast(device: torch.device, settings: TrainingSettings) -> AbstractContextManager[object]:
    """Return the context in which a step computes in bfloat16, or one that changes nothing."""
    if settings.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def tensors_fraction(share: float, total_bytes: int) -> float:
    """Return the fraction of a GPU's memory that a process' tensors may take: its share, but for CUDA's own part.

    Raises StudyError if that leaves nothing.
    """
    left = share * total_bytes - CONTEXT_BYTES
    if left <= 0:
        raise StudyError(
            f"{share:g} of a GPU of {total_bytes / 2**30:.1f} GiB is less than the {CONTEXT_BYTES / 2**30:.1f} GiB"
            " that CUDA itself takes; give a larger --gpus-per-trial"
        )
    return left / total_bytes


def limit_gpu_memory(share: float) -> None:
    """Hold this process to its share of the GPU's memory, so that trials that share one cannot starve each other."""
    if 0 < share < 1 and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(tensors_fraction(share, total))


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory: of a GPU, or on Linux of this process, which earlier trials used."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # 5: the high-water mark starts again from what is resident now.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory in use since the last reset; where none is possible, of the process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    # Kilobytes, but bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def system_metrics() -> dict[str, float]:
    """Return what this node is doing, by the names under which MLflow charts it: shares in %, since the last call."""
    import psutil

    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
    }
    # Of a trial that trains there: asking would start CUDA for one that does not.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        free, total = torch.cuda.mem_get_info()
        found["system/gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
    return found
