"""Figures: a Vega-Lite specification for each kind of figure, made of plain rows, and its rendering to a file."""
