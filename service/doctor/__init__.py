"""Look at all that Holdfast stands on, and say of each thing what is wrong with it and what to do."""
