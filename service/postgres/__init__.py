"""Postgres: the engine and its pool, batches of statements, the tables, the search along an index."""
