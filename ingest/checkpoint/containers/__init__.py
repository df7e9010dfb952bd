"""The containers of weight files, one module a container: headers into tensor references."""
