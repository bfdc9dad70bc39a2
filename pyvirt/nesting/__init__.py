"""Hypervisors written in Python, and the H extension as they emulate it for their guests."""
