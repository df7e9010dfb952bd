"""What processes cost, measured in turns.

Ways of doing the same thing take turns, so that each ratio is between neighbours in time: other work on the machine comes and
goes. The order is drawn anew for each turn, as each way finds the system's free memory as the one before left it. The median of
the turns' ratios counts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Cost:
    """One turn: seconds, CPU seconds of all threads and child processes, and the peak of resident memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


Turns = Sequence[Cost]
"""The costs of one way, turn by turn."""


def run_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a process to its end; its output is dropped. Raises SystemExit if it fails.

    Linux starts a child's peak of memory with what this process holds, so benchmarks make their input in other processes.
    """
    started = time.perf_counter()
    process = os.posix_spawn(
        command[0],
        command,
        {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **(environment or {})},
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"failed: {' '.join(command)[:200]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def run_in_turns(ways: Mapping[str, Callable[[], Cost]], repeat: int) -> dict[str, list[Cost]]:
    """Run every way `repeat` times, in turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    generator = random.Random(0)
    for _ in range(repeat):
        for name in generator.sample(list(ways), len(ways)):
            costs[name].append(ways[name]())
    return costs


def median_seconds(turns: Turns) -> float:
    """The median of the turns' seconds."""
    return median(turn.seconds for turn in turns)


def ratios(turns: Turns, reference: Turns) -> list[float]:
    """The ratio of seconds in each turn."""
    return [turn.seconds / other.seconds for turn, other in zip(turns, reference, strict=True)]


def cpu_ratio(turns: Turns, reference: Turns) -> float:
    """The median of the ratios of CPU seconds."""
    return median(turn.cpu_seconds / other.cpu_seconds for turn, other in zip(turns, reference, strict=True))
