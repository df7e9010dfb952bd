"""Figures of a warehouse: the kinds of them, and the rows that each takes."""
