"""The SQL of the views, one file a view, made in file order."""
