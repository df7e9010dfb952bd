"""The upkeep of a warehouse: health checks, result links, removals and renames."""
