"""JSON files that end with a hash of their own content, so that a change of any byte is noticed by whoever reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from layerhouse.warehouse.storage.own_files import FaultyFileError


def sealed(document: Mapping[str, Any]) -> bytes:
    """An object as JSON whose last member, `digest`, is the SHA-256 of all bytes before it."""
    body = json.dumps(document, indent=1).encode()[:-2]
    return body + _seal(body)


def unsealed(raw: bytes) -> tuple[dict[str, Any], bool]:
    """The object that such a file holds, without its digest, and whether it has one; earlier versions wrote none.

    Raises FaultyFileError for what is not JSON, not an object, or has another content than its digest says.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FaultyFileError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FaultyFileError("not a JSON object")
    if "digest" not in document:
        return document, False
    del document["digest"]
    body = raw[: -len(_seal(b""))]
    if raw != body + _seal(body):
        raise FaultyFileError("its content differs from its digest (SHA-256 mismatch)")
    return document, True


def _seal(body: bytes) -> bytes:
    return f',\n "digest": "{hashlib.sha256(body).hexdigest()}"\n}}'.encode()
