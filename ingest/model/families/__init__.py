"""Model families as data: a TOML file each says how a family names its tensors. Its keys are listed in `family_files`."""
