"""Documents and tokens: where a dataset's rows and a model's files come from."""
