"""The formats of result files, one module a format: `recognises` tells its documents, `parse` makes their rows."""
