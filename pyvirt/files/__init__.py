"""Saved machines: the container, what goes into it, and how it comes back."""
