"""Rows in Parquet, and SQL over them."""
