"""The JSON files that a study's analysis scripts write, read into rows of checkpoints and layers."""
