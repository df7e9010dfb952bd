"""Parts of layerhouse that installed packages add through entry points: containers, layouts, result formats.

A package lists the object in its pyproject.toml, under the group of the part; each registry says what the object has to be:

    [project.entry-points."layerhouse.containers"]
    npz = "my_package.npz:CONTAINER"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ParamSpec, Protocol, TypeVar

from layerhouse.errors import InputError, UsageError


class Named(Protocol):
    """An entry of a registry. Names are unique within one."""

    @property
    def name(self) -> str: ...


Part = TypeVar("Part", bound=Named)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Loaded:
    """One entry point: where it comes from, and the object that it names or the reason why that could not be loaded."""

    origin: str
    value: object = None
    problem: str | None = None


def load_plugins(group: str, expected: type[Part], built_in: tuple[Part, ...] = ()) -> tuple[Part, ...]:
    """What installed packages add to the built-in entries of a registry, ordered by package and by entry point.

    The metadata of all installed packages are read at the first call of a group in a process, which takes some milliseconds:
    call it only where no built-in entry fits. Raises UsageError, in one line that names the package and the entry point, if
    one cannot be loaded, is not an instance of `expected`, or has the name of another entry.
    """
    origins = {part.name: "layerhouse itself" for part in built_in}
    parts: list[Part] = []
    for loaded in _load_group(group):
        if loaded.problem is not None:
            raise UsageError(f"{loaded.origin} cannot be loaded: {loaded.problem}; repair or uninstall the package")
        part = loaded.value
        if not isinstance(part, expected):
            raise UsageError(f"{loaded.origin} is a {type(part).__name__}, expected a {expected.__name__}")
        if part.name in origins:
            raise UsageError(f"{loaded.origin} has the name {part.name!r}, which {origins[part.name]} has too")
        origins[part.name] = loaded.origin
        parts.append(part)
    return tuple(parts)


def call_plugin(
    display_path: str, what: str, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function of another package for one input. Any exception of its becomes an InputError that names the input and
    the part, `what`, so that the rest of a batch goes on; its own InputErrors pass through."""
    try:
        return function(*args, **kwargs)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(display_path, f"{what} of another package failed: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def _load_group(group: str) -> tuple[_Loaded, ...]:
    # Takes longer to import than a small checkpoint takes to read.
    from importlib.metadata import entry_points

    found = []
    for entry_point in entry_points(group=group):
        package = (entry_point.dist.name if entry_point.dist else None) or "unknown"
        found.append((package, entry_point.name, entry_point.value, entry_point))
    loaded = []
    for package, name, value, entry_point in sorted(found, key=lambda item: item[:3]):
        origin = f"entry point {name} = {value} of package {package} (group {group})"
        try:
            loaded.append(_Loaded(origin, entry_point.load()))
        except (Exception, SystemExit) as error:  # a package may do anything while it is imported
            loaded.append(_Loaded(origin, problem=_one_line(error)))
    return tuple(loaded)
