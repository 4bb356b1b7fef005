"""What Holdfast is measured against; each is a process that reads the same environment as Holdfast does."""
