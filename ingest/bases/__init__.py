"""Bases by themselves: what the stored rows say that each model was made from, and the comparisons that follow from it."""
