"""The forms of stored weights that are read, as a table: those that are built in, and those that packages add."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("form", "written_by", "read_by", "shape_from", "zeros", "tested_with")


def list_forms() -> pa.Table:
    """One row a form. Raises UsageError if a package's layout or container cannot be loaded."""
    import pyarrow as pa

    from layerhouse.ingest.checkpoint.containers import registry as containers
    from layerhouse.ingest.checkpoint.forms import FORMS
    from layerhouse.ingest.checkpoint.layouts import registry as layouts
    from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
    from layerhouse.plugins import load_plugins

    rows: list[tuple[str | None, ...]] = [
        (form.name, form.written_by, form.reader or None, form.shape or None, form.zeros, ", ".join(form.checked) or None)
        for form in FORMS
    ]
    added = [container.name for container in load_plugins(containers.GROUP, containers.Container, containers.BUILT_IN)]
    added += [layout.name for layout in load_plugins(layouts.GROUP, WeightLayout, layouts.BUILT_IN)]
    rows += [(name, "added by a package", name, None, None, None) for name in added]
    return pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], COLUMNS)
