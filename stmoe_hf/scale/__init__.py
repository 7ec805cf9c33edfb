"""From a laptop to a country: Arrow in, Arrow out, in shards that any engine works off.

`batches.forecast_batches` and its kind are functions from record batches to record batches, one row a person;
`run.run_shards` does the files of a folder or URL with them, on processes of this machine, on Ray or on Spark.
"""
