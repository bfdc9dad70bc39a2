"""Bodies of RV64I: one `cdef inline` per instruction, the only place its effect is written.

Arguments are register values; `b` of an immediate form is the sign-extended immediate or the shift amount.
A load's body turns the bytes read, zero-extended, into the register value. Unprivileged manual, chapter "RV32I"
and "RV64I".
"""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bits cimport *


cdef inline uint64_t insn_add(uint64_t a, uint64_t b) noexcept nogil:
    return a + b


cdef inline uint64_t insn_sub(uint64_t a, uint64_t b) noexcept nogil:
    return a - b


cdef inline uint64_t insn_sll(uint64_t a, uint64_t b) noexcept nogil:
    return a << (b & 63)


cdef inline uint64_t insn_slt(uint64_t a, uint64_t b) noexcept nogil:
    return 1 if <int64_t>a < <int64_t>b else 0


cdef inline uint64_t insn_sltu(uint64_t a, uint64_t b) noexcept nogil:
    return 1 if a < b else 0


cdef inline uint64_t insn_xor(uint64_t a, uint64_t b) noexcept nogil:
    return a ^ b


cdef inline uint64_t insn_srl(uint64_t a, uint64_t b) noexcept nogil:
    return a >> (b & 63)


cdef inline uint64_t insn_sra(uint64_t a, uint64_t b) noexcept nogil:
    return <uint64_t>(<int64_t>a >> (b & 63))


cdef inline uint64_t insn_or(uint64_t a, uint64_t b) noexcept nogil:
    return a | b


cdef inline uint64_t insn_and(uint64_t a, uint64_t b) noexcept nogil:
    return a & b


cdef inline uint64_t insn_addw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(a + b)


cdef inline uint64_t insn_subw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(a - b)


cdef inline uint64_t insn_sllw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(<uint32_t>a << (b & 31))


cdef inline uint64_t insn_srlw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(<uint32_t>a >> (b & 31))


cdef inline uint64_t insn_sraw(uint64_t a, uint64_t b) noexcept nogil:
    return <uint64_t><int64_t>(<int32_t>a >> (b & 31))


cdef inline uint64_t insn_addi(uint64_t a, uint64_t b) noexcept nogil:
    return a + b


cdef inline uint64_t insn_slti(uint64_t a, uint64_t b) noexcept nogil:
    return 1 if <int64_t>a < <int64_t>b else 0


cdef inline uint64_t insn_sltiu(uint64_t a, uint64_t b) noexcept nogil:
    return 1 if a < b else 0


cdef inline uint64_t insn_xori(uint64_t a, uint64_t b) noexcept nogil:
    return a ^ b


cdef inline uint64_t insn_ori(uint64_t a, uint64_t b) noexcept nogil:
    return a | b


cdef inline uint64_t insn_andi(uint64_t a, uint64_t b) noexcept nogil:
    return a & b


cdef inline uint64_t insn_addiw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(a + b)


cdef inline uint64_t insn_slli(uint64_t a, uint64_t b) noexcept nogil:
    return a << b


cdef inline uint64_t insn_srli(uint64_t a, uint64_t b) noexcept nogil:
    return a >> b


cdef inline uint64_t insn_srai(uint64_t a, uint64_t b) noexcept nogil:
    return <uint64_t>(<int64_t>a >> b)


cdef inline uint64_t insn_slliw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(<uint32_t>a << b)


cdef inline uint64_t insn_srliw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(<uint32_t>a >> b)


cdef inline uint64_t insn_sraiw(uint64_t a, uint64_t b) noexcept nogil:
    return <uint64_t><int64_t>(<int32_t>a >> b)


cdef inline bint insn_beq(uint64_t a, uint64_t b) noexcept nogil:
    return a == b


cdef inline bint insn_bne(uint64_t a, uint64_t b) noexcept nogil:
    return a != b


cdef inline bint insn_blt(uint64_t a, uint64_t b) noexcept nogil:
    return <int64_t>a < <int64_t>b


cdef inline bint insn_bge(uint64_t a, uint64_t b) noexcept nogil:
    return <int64_t>a >= <int64_t>b


cdef inline bint insn_bltu(uint64_t a, uint64_t b) noexcept nogil:
    return a < b


cdef inline bint insn_bgeu(uint64_t a, uint64_t b) noexcept nogil:
    return a >= b


cdef inline uint64_t insn_lb(uint64_t v) noexcept nogil:
    return sext8(v)


cdef inline uint64_t insn_lh(uint64_t v) noexcept nogil:
    return sext16(v)


cdef inline uint64_t insn_lw(uint64_t v) noexcept nogil:
    return sext32(v)


cdef inline uint64_t insn_ld(uint64_t v) noexcept nogil:
    return v


cdef inline uint64_t insn_lbu(uint64_t v) noexcept nogil:
    return v


cdef inline uint64_t insn_lhu(uint64_t v) noexcept nogil:
    return v


cdef inline uint64_t insn_lwu(uint64_t v) noexcept nogil:
    return v
