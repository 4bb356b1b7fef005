"""The other implementations; their processes read the same environment variables as Holdfast."""
