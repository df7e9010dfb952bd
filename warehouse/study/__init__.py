"""The study scripts' files, written from a warehouse."""
