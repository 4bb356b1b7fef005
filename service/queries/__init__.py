"""The read side: queries of the API, the command line and the metrics. No query counts a whole table."""
