"""The layout of rows of moments, which the sums of 32- and 64-bit types come from."""

from __future__ import annotations

SUB_BLOCK = 4096
"""Elements that one row of moments sums. Sub-blocks are aligned to the element's index in the tensor."""

ROW = 6
"""Numbers in a row of moments: count, exponent, sum, sum of magnitudes, sum of squares, squared deviations from the mean."""
