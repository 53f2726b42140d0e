"""All runs of a folder over time: what each cell cost in each of them, and what changed between.

Runs are read and verified once and kept as rows in Parquet (`store`, `scan`), from which DuckDB
answers, so a thousand runs open in seconds (`trends`). The page, the terminal and JSON show the
same tables (`shown`, `page`).
"""
