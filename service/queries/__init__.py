"""The read side: what the API, the command line and the metrics show. Nothing here counts a whole table."""
