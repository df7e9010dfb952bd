"""The bytes of a tensor, read in C order, whatever the file holds them as."""
