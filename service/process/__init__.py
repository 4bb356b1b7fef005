"""One attempt at a job: claim it, capture what is missing, settle it."""
