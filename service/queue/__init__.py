"""The arq queue in Redis, and the dispatch of jobs to it."""
