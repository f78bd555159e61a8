"""Model folders: finding, checking, reading and writing them."""
