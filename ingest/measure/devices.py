"""Where values are counted: the CPU, or NVIDIA GPUs through torch, which is not imported where there is no driver."""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
from pathlib import Path

from layerhouse.errors import UsageError
from layerhouse.optional import require

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
DRIVER_FOLDER = Path("/proc/driver/nvidia")
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DRIVER_PROGRAM = "nvidia-smi"


def find_devices(wanted: str) -> tuple[str, ...]:
    """The devices that a word names: `cpu`; `cuda` (every GPU), `cuda:1`; `auto` (every GPU, or the CPU where there is none).

    Each checkpoint is counted on one of them. Raises UsageError for an unknown word and for a device that is not there.
    """
    found = re.fullmatch(rf"{CUDA}(?::(\d{{1,4}}))?", wanted)
    if wanted not in (CPU, AUTO) and found is None:
        raise UsageError(f"device {wanted!r}: there is cpu, cuda, cuda:N (N from 0) and auto")
    if wanted == CPU or (wanted == AUTO and not has_driver()):
        return (CPU,)
    if not has_driver():
        raise UsageError(f"device {wanted!r}: this machine has no NVIDIA driver; count on the CPU with --device cpu")
    count, reason = _count_gpus()
    if wanted == AUTO and count == 0:
        return (CPU,)
    if count == 0:
        raise UsageError(f"device {wanted!r}: {reason}; count on the CPU with --device cpu")
    names = tuple(f"{CUDA}:{index}" for index in range(count))
    if found is None or found[1] is None:
        return names
    if int(found[1]) >= count:
        raise UsageError(f"device {wanted!r}: there is {', '.join(names)}")
    return (f"{CUDA}:{int(found[1])}",)


def has_driver() -> bool:
    """Whether anything of an NVIDIA driver is here: its folder in /proc, its library, its program."""
    if DRIVER_FOLDER.exists() or shutil.which(DRIVER_PROGRAM) is not None:
        return True
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def _count_gpus() -> tuple[int, str]:
    """How many GPUs torch can use, and why none."""
    try:
        torch = require("torch", for_what="counting on a GPU")
    except UsageError as error:
        return 0, str(error)
    if torch.version.cuda is None:
        return 0, f"there is a driver, and torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return 0, "there is a driver, and torch finds no GPU that it can use"
    return int(torch.cuda.device_count()), ""
