"""What `layerhouse.open` returns: a warehouse whose models can be compared, which takes code of the ingest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerhouse.warehouse.answers.handle import Warehouse

if TYPE_CHECKING:
    import polars as pl


class OpenedWarehouse(Warehouse):
    """A warehouse opened for reading. What compares rows is imported when it is needed, as reading needs none of it."""

    def compare(self, model: str, base: str | None = None) -> pl.DataFrame:
        """Two models beside each other, by their stored rows: a row for every layer and removed block.

        `base` is any other model, by default the one that the model was last compared with. Both may be endings of names.
        Nothing is stored. Raises NotFoundError for an unknown model, and UsageError for an ending of several names, and with
        the reason for two models that cannot be compared.
        """
        from layerhouse.compare_call import compared

        name = self.find_model(model)
        with compared(self, name, base) as (shown, _):
            return shown.query("per_layer", models=[name])
