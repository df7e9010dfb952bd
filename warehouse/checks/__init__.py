"""SQL that returns the rows which break a promise of the warehouse; one file a promise."""
