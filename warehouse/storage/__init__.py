"""The warehouse on disk: the Parquet files, their schema, and the commits that list them."""
