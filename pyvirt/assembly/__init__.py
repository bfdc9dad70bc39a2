"""Instructions as text: the assembler, the disassembler, and the names of registers and CSRs."""
