"""Model families as data: each TOML file describes the tensor names of one family. `family_files` lists the keys of a file."""
