"""Evaluation and benchmark results, one module a file format: result files into rows."""
