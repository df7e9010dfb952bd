"""The interface of a layout: one way to store weights in other tensors than the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

Claims = Callable[[QuantizationConfig, ModuleTensors], Sequence[TensorRef]]


@dataclass(frozen=True)
class WeightLayout:
    """A layout in the registry. Its `name` is unique.

    `claims(config, module)` returns those tensors of a module that the layout stores, each with its layout set (`weight_ref`,
    `auxiliary_ref`), or nothing if the module is not stored in this layout. It raises InputError (`module.refuse`) if the
    module is, but its tensors contradict each other. It reads headers and small tensors only, never weights.

    `suffixes` limit it to modules that have one of them; without any it is asked of every module.
    """

    name: str
    claims: Claims
    suffixes: tuple[str, ...] = ()

    def may_claim(self, module: ModuleTensors) -> bool:
        """Whether `claims` has to be asked of a module."""
        return not self.suffixes or not module.parts.keys().isdisjoint(self.suffixes)
