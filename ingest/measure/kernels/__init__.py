"""The loops that count bytes, in C and in numpy."""
