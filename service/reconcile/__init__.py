"""Compare Postgres with the target and the storage, repair differences, and verify stored objects."""
