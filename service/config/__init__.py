"""The settings, read once from the environment at a door and never changed."""
