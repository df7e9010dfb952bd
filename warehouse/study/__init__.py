"""Writes the files of the study scripts from the rows of a warehouse."""
