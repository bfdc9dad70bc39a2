"""Programs as files: recognised, decompressed, and put where they go in guest RAM."""
