"""Bodies of M. Division by zero and overflow have results and do not trap: chapter "M", table "Semantics for
division by zero and division overflow".
"""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bits cimport *


cdef inline uint64_t insn_mul(uint64_t a, uint64_t b) noexcept nogil:
    return a * b


cdef inline uint64_t insn_mulh(uint64_t a, uint64_t b) noexcept nogil:
    return bits_mulh(a, b)


cdef inline uint64_t insn_mulhsu(uint64_t a, uint64_t b) noexcept nogil:
    return bits_mulhsu(a, b)


cdef inline uint64_t insn_mulhu(uint64_t a, uint64_t b) noexcept nogil:
    return bits_mulhu(a, b)


cdef inline uint64_t insn_mulw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(a * b)


cdef inline uint64_t insn_div(uint64_t a, uint64_t b) noexcept nogil:
    if b == 0:
        return ~<uint64_t>0
    if b == ~<uint64_t>0:  # -1: the host would trap on INT64_MIN / -1
        return 0 - a
    return <uint64_t>(<int64_t>a // <int64_t>b)


cdef inline uint64_t insn_divu(uint64_t a, uint64_t b) noexcept nogil:
    return a // b if b else ~<uint64_t>0


cdef inline uint64_t insn_rem(uint64_t a, uint64_t b) noexcept nogil:
    if b == 0:
        return a
    if b == ~<uint64_t>0:
        return 0
    return <uint64_t>(<int64_t>a % <int64_t>b)


cdef inline uint64_t insn_remu(uint64_t a, uint64_t b) noexcept nogil:
    return a % b if b else a


cdef inline uint64_t insn_divw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(insn_div(sext32(a), sext32(b)))


cdef inline uint64_t insn_divuw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(insn_divu(<uint32_t>a, <uint32_t>b))


cdef inline uint64_t insn_remw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(insn_rem(sext32(a), sext32(b)))


cdef inline uint64_t insn_remuw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(insn_remu(<uint32_t>a, <uint32_t>b))
