"""How the values of wide types are summed up: rows of moments, whichever loop fills them."""

from __future__ import annotations

SUB_BLOCK = 4096
"""Elements whose sums make one row of moments; sub-blocks are aligned to the element's index in the tensor."""

ROW = 6
"""Numbers in a row of moments: count, exponent, sum, sum of magnitudes, sum of squares, squared deviations from the mean."""
