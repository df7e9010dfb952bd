"""Result files of evaluation harnesses and benchmarks, read into rows of the results table."""
