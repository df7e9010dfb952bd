"""Run the real command in a process of its own, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CLEAN = {key: value for key, value in os.environ.items() if key not in ("LAYERHOUSE_WAREHOUSE", "COLUMNS")}


def layerhouse(*arguments, cwd: Path | None = None, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `layerhouse` with these arguments; stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-m", "layerhouse", *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        env={**CLEAN, "PYTHONWARNINGS": "error", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
