"""Questions to a warehouse and their answers: DuckDB sessions, views, queries, selections."""
