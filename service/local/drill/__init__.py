"""Hurt a whole Holdfast on this machine in every way we know, and prove that nothing was lost."""
