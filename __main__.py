"""`python -m layerhouse` is the `layerhouse` command."""

from layerhouse.cli import program

program()
