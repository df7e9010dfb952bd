"""What tables look like on a terminal: which columns fit, notes below the table, shades, a pager."""
