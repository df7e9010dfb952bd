"""The files of a checkpoint, read into references to its tensors; no weight byte is read here."""
