"""A drill: inject every known fault into an installation on this machine, and prove that nothing was lost."""
