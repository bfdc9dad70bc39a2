"""pyvirt: a computer inside Python."""
