"""Result files of evaluation harnesses and benchmarks, one module a format, read into rows of the results table."""
