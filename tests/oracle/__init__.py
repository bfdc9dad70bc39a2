"""The independent judges that tests hold pyvirt against: one module each, none of them knows pyvirt."""
