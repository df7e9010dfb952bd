"""Answers that a large warehouse keeps as Parquet files: what they are named after, how they are written, and when."""
