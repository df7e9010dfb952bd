"""A figure that is drawn: its specification, its files, and how a notebook shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.render.plots import rendering
from layerhouse.warehouse.render.plots.look import Look, Width
from layerhouse.warehouse.render.plots.parts import Spec
from layerhouse.warehouse.render.target import write_file

MIME_TYPE = "application/vnd.vegalite.v6+json"
"""What a notebook knows a specification by."""


@dataclass(frozen=True)
class Plot:
    """A figure. `draw` makes its specification for a look; `notes` say what it does not show."""

    kind: str
    draw: Callable[[Look], Spec] = field(repr=False)
    look: Look = field(default_factory=Look, repr=False)
    width: Width = field(default_factory=Width, repr=False)

    @property
    def spec(self) -> Spec:
        """The Vega-Lite specification, with its data."""
        return self.draw(replace(self.look, width=self.width.units))

    def svg(self) -> str:
        """The figure as SVG. Raises UsageError without vl-convert, as all that follow."""
        return rendering.draw_svg(self.spec, *(self._paper() if self.width.is_on_paper else (self.width.units, "")))

    def pdf(self) -> bytes:
        """The figure as a page of a PDF, with its fonts embedded and nothing as pixels."""
        return rendering.draw_pdf(rendering.draw_svg(self.spec, self.width.units))

    def png(self) -> bytes:
        """The figure as PNG: as many pixels wide as asked for, or with 300 pixels an inch of a width on paper."""
        units, pixels = self.width.png_units, self.width.png_pixels
        svg = rendering.draw_svg(self.draw(replace(self.look, width=units)), units)
        return rendering.draw_png(svg, pixels / units)

    def html(self) -> str:
        """A page with the figure as SVG in it, without scripts."""
        spec = self.spec
        title = spec["description"].partition(". ")[0]
        return rendering.page(self.svg(), title, self.look.tones.background, self.look.language)

    def json(self) -> str:
        """The specification as text."""
        return rendering.spec_text(self.spec)

    def save(self, path: str | Path) -> None:
        """Write the figure to a file, whose suffix chooses the format: .svg, .png, .pdf, .html or .json. Raises UsageError."""
        target = Path(path)
        write_file(target, self.data(choose_figure_format(None, target)))

    def data(self, format_name: str) -> bytes:
        """The figure as the bytes of a format."""
        made = FIGURE_FORMATS[format_name].make(self)
        return made if isinstance(made, bytes) else made.encode()

    def unshown_characters(self) -> list[str]:
        """The characters of its texts that no font of this machine can show."""
        return rendering.unshown_characters(self.svg())

    def _paper(self) -> tuple[float, str]:
        return self.width.value, self.width.unit

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """The specification for notebooks that draw it, and the figure for those that do not, where vl-convert is there."""
        bundle: dict[str, Any] = {MIME_TYPE: self.spec, "text/plain": repr(self)}
        try:
            bundle["image/svg+xml"] = self.svg()
        except UsageError:
            return bundle
        return bundle


@dataclass(frozen=True)
class FigureFormat:
    """A format of figures: its name is its suffix without the dot. `has_fonts` if this machine's fonts are drawn into it."""

    name: str
    is_binary: bool
    has_fonts: bool
    make: Callable[[Plot], str | bytes]


FIGURE_FORMATS: Mapping[str, FigureFormat] = MappingProxyType(
    {
        known.name: known
        for known in (
            FigureFormat("svg", is_binary=False, has_fonts=False, make=Plot.svg),
            FigureFormat("png", is_binary=True, has_fonts=True, make=Plot.png),
            FigureFormat("pdf", is_binary=True, has_fonts=True, make=Plot.pdf),
            FigureFormat("html", is_binary=False, has_fonts=False, make=Plot.html),
            FigureFormat("json", is_binary=False, has_fonts=False, make=Plot.json),
        )
    }
)


def choose_figure_format(format_name: str | None, output: Path | None) -> str:
    """The named format, else that of the output's suffix.

    Raises UsageError if neither names one, or both do and differ.
    """
    suffix = None if output is None else output.suffix.lower().removeprefix(".")
    if format_name is not None:
        name = format_name.lower()
        if name not in FIGURE_FORMATS:
            raise NotFoundError("format of figures", format_name, tuple(FIGURE_FORMATS))
        if suffix in FIGURE_FORMATS and suffix != name:
            raise UsageError(f"--format {name} and the suffix of {output} contradict each other; leave out one of them")
        return name
    if suffix in FIGURE_FORMATS:
        return str(suffix)
    suffixes = ", ".join(f".{name}" for name in FIGURE_FORMATS)
    if output is None:
        raise UsageError(f"name a file for the figure with --output ({suffixes}), or a format for stdout with --format")
    raise UsageError(f"{output}: the suffix names no format of figures ({suffixes})")
