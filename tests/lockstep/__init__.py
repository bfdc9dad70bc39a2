"""Lock-step: the same program on Spike and on pyvirt, compared after every instruction."""
