"""One attempt at a job: claim it, download and store its files, settle it; and the sweep that finds due jobs."""
