"""Maintenance of a warehouse: health checks, links of results to models, dropped and renamed models."""
