"""What users call columns: their names, their headings in a language, and the columns that a condition names."""
