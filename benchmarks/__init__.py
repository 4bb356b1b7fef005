"""Holdfast beside what one would build or pick instead: one machine, one run, ratios instead of seconds."""
