"""Model folders: where they are, what may be in them, how they are written and read."""
