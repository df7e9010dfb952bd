"""Specifications as files: drawn by vl-convert, which is imported when it is needed; the specification itself needs nothing."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from layerhouse.errors import UsageError
from layerhouse.warehouse.render.plots.theme import FONT

VEGA_LITE = "6.4"
"""The version of Vega-Lite that draws; the schema is that of its major version."""
_ROOT = re.compile(r'<svg\b[^>]*?\bwidth="(?P<width>[\d.]+)"[^>]*?\bheight="(?P<height>[\d.]+)"[^>]*?>')
_TEXT = re.compile(r"<text\b[^>]*>(.*?)</text>", re.DOTALL)
_UNASSIGNED = "\U000ffffd"
"""A character that no font has: it is drawn as the sign for a missing one."""


def converter() -> Any:
    """The module that draws. Raises UsageError, one line with the command that installs it."""
    try:
        import vl_convert
    except ImportError:
        raise UsageError("a figure needs vl-convert: pip install 'layerhouse[plot]'; a .json file needs no renderer") from None
    return vl_convert


def spec_text(spec: dict[str, Any]) -> str:
    """A specification as JSON; no byte of it ends a script or is taken for a line end by one."""
    text = json.dumps(spec, ensure_ascii=True, allow_nan=False, indent=1)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026") + "\n"


def draw_svg(spec: dict[str, Any], width: float, unit: str = "") -> str:
    """The figure as SVG that is just as wide as it should be; `unit` is that of the width, nothing for pixels."""
    svg: str = converter().vegalite_to_svg(spec_text(spec), vl_version=VEGA_LITE)
    match = _ROOT.match(svg)
    assert match is not None
    height = float(match["height"]) * width / float(match["width"])
    root = match[0].replace(f'width="{match["width"]}"', f'width="{width:.6g}{unit}"', 1)
    root = root.replace(f'height="{match["height"]}"', f'height="{height:.6g}{unit}"', 1)
    return root + svg[match.end() :]


def draw_pdf(svg: str) -> bytes:
    """An SVG as a PDF page with its fonts embedded; a unit of the SVG is a point of 1/72 inch."""
    pdf: bytes = converter().svg_to_pdf(svg)
    return pdf


def draw_png(svg: str, scale: float) -> bytes:
    """An SVG as PNG with a number of pixels for each unit, which counts as 1/72 inch."""
    png: bytes = converter().svg_to_png(svg, scale=1.0, ppi=72.0 * scale)
    return png


def page(svg: str, title: str, background: str, language: str) -> str:
    """A page with an SVG in it: no script, nothing loaded from anywhere."""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>body {{ margin: 1em; background: {background}; }} svg {{ max-width: 100%; height: auto; }}</style>\n"
        f"</head>\n<body>\n{svg}\n</body>\n</html>\n"
    )


def unshown_characters(svg: str) -> list[str]:
    """The characters of an SVG's texts that no font of this machine can show, in their order."""
    text = html.unescape("".join(re.sub(r"<[^>]*>", "", part) for part in _TEXT.findall(svg)))
    foreign = [character for character in dict.fromkeys(text) if ord(character) > 0x24F]
    missing = _glyph(_UNASSIGNED) if foreign else b""
    return [character for character in foreign if _glyph(character) == missing]


def _glyph(character: str) -> bytes:
    """The picture of one character."""
    root = '<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24">'
    font = f'<text x="4" y="18" font-size="16" font-family="{FONT}">{html.escape(character)}</text></svg>'
    png: bytes = converter().svg_to_png(root + font)
    return png
