"""Packages that only a few options need: imported when they are used, so that everything else works without them."""

from __future__ import annotations

import importlib
from types import ModuleType

from layerhouse.errors import UsageError


def require(package: str, *, for_what: str) -> ModuleType:
    """Import a package. Raises UsageError, one line with the command that installs it, if that fails.

    `for_what` starts the line: the option or input that needs the package.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise UsageError(f"{for_what} needs {package}: pip install {package}") from None
    except ImportError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        text = f"{for_what} needs {package}, which cannot be imported ({reason}): pip install --force-reinstall {package}"
        raise UsageError(text) from None
