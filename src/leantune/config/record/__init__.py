"""``record.json``: its classes in `run` and `confidence`, and the published schema that `schema` makes from them."""
