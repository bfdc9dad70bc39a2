"""Disks: raw image files, and what a guest changes of them."""
