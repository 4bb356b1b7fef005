"""Compare Holdfast with other implementations on one machine, in ratios instead of seconds."""
