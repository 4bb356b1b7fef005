"""Freeze what the fork server has imported: no collection of a forked process looks at it, or copies its pages."""

import gc

gc.collect()
gc.freeze()
