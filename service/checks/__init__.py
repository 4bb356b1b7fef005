"""Check everything that Holdfast depends on, and say of each problem what to do about it."""
