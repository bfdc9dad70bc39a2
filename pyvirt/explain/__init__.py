"""What happened, and why: page walks, traps, exits, levels, missing fences."""
