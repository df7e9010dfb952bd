"""What a user names is a path of this machine: URLs are understood or refused as URLs, and never become folders."""

from __future__ import annotations

import re
from pathlib import Path

from layerhouse.errors import UsageError

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A URL, also one of whose slashes pathlib has made one. A drive of Windows has a single letter."""
HUB = re.compile(r"(?:https?://(?:www\.)?huggingface\.co/|hf://(?:models/)?)([\w.-]+/[\w.-]+).*", re.DOTALL)
COPIERS = {
    "s3": "aws s3 sync {url} FOLDER",
    "gs": "gcloud storage cp -r {url} FOLDER",
    "http": "wget {url}",
    "https": "wget {url}",
}


def local_path(text: str | Path) -> Path:
    """The path that a user names; that of a URL such as `file:///models`. Raises UsageError for all other URLs."""
    written = str(text)
    match = URL.fullmatch(written)
    if match is None:
        return Path(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        from urllib.parse import unquote, urlsplit

        address = urlsplit(written)
        if address.netloc not in ("", "localhost"):
            raise UsageError(f"{written}: a file of the machine {address.netloc!r}; name a path of this one")
        return Path(unquote(address.path))
    url = f"{scheme}://{rest}"
    repository = HUB.fullmatch(url)
    copy = f"hf download {repository[1]} --local-dir FOLDER" if repository else COPIERS.get(scheme, "").format(url=url)
    how = f"copy it first, such as with: {copy}; and name that folder" if copy else "copy it first, and name the copy"
    raise UsageError(f"{url}: a URL, and layerhouse reads and writes local folders and files; {how}")
