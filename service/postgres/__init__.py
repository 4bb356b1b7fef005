"""Postgres: the engine and its pool, statements in batches, the tables, the search along an index."""
