"""`pyvirt pull`: unmodified guests from Debian's archive."""
