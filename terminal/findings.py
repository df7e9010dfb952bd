"""What `layerhouse check` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.escapes import visible
from layerhouse.terminal.messages import print_lines, talk
from layerhouse.vocabulary import FindingKind

if TYPE_CHECKING:
    from layerhouse.warehouse.admin.health import Finding

REPAIRABLE = (FindingKind.DAMAGED, FindingKind.ORPHAN, FindingKind.SCHEMA)
BROKEN = (FindingKind.DAMAGED, FindingKind.PROMISE)
"""Kinds that make answers incomplete or wrong until they are repaired."""


def show_findings(findings: Sequence[Finding], warehouse: Path, *, repair: bool) -> bool:
    """Print one line per finding, then what to do about them; return whether the warehouse is still broken."""
    for finding in findings:
        repaired = f"; {finding.repaired}" if finding.repaired else ""
        print_lines(visible(f"{finding.kind:8} {finding.where}: {finding.what}{repaired}"))
    if not findings:
        talk(f"{warehouse}: healthy")
    elif not repair and any(finding.kind in REPAIRABLE for finding in findings):
        talk(f"mend what can be mended with: layerhouse check --repair --warehouse {warehouse}")
    return any(finding.kind in BROKEN and not finding.repaired for finding in findings)
