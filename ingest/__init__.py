"""The order in which an ingest does things: discover, plan, take, compare, commit."""
