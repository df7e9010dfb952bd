"""A package that can be called as a function: `layerhouse.ingest` is a function and has its modules all the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Generic, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


class CallablePackage(ModuleType, Generic[Parameters, Answer]):
    """A package; a call of it is a call of `__wrapped__`, where `inspect` finds the signature."""

    __wrapped__: Callable[Parameters, Answer]

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        return self.__wrapped__(*args, **kwargs)


def calls_as(package_name: str) -> Callable[[Callable[Parameters, Answer]], CallablePackage[Parameters, Answer]]:
    """A decorator that makes an imported package callable as the function and stands for the package."""

    def decorate(function: Callable[Parameters, Answer]) -> CallablePackage[Parameters, Answer]:
        package = sys.modules[package_name]
        package.__class__ = CallablePackage
        assert isinstance(package, CallablePackage)
        package.__wrapped__, package.__doc__ = function, function.__doc__
        return package

    return decorate
