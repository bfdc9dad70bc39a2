"""Bodies of the atomic memory operations: the new memory value from the old one and rs2.

Narrower operations than 64 bits get both values sign-extended; the low part of the result is stored.
"""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bits cimport *


cdef inline uint64_t insn_amoswap_d(uint64_t a, uint64_t b) noexcept nogil:
    return b


cdef inline uint64_t insn_amoswap_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoswap_d(a, b)


cdef inline uint64_t insn_amoadd_d(uint64_t a, uint64_t b) noexcept nogil:
    return a + b


cdef inline uint64_t insn_amoadd_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoadd_d(a, b)


cdef inline uint64_t insn_amoxor_d(uint64_t a, uint64_t b) noexcept nogil:
    return a ^ b


cdef inline uint64_t insn_amoxor_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoxor_d(a, b)


cdef inline uint64_t insn_amoand_d(uint64_t a, uint64_t b) noexcept nogil:
    return a & b


cdef inline uint64_t insn_amoand_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoand_d(a, b)


cdef inline uint64_t insn_amoor_d(uint64_t a, uint64_t b) noexcept nogil:
    return a | b


cdef inline uint64_t insn_amoor_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoor_d(a, b)


cdef inline uint64_t insn_amomin_d(uint64_t a, uint64_t b) noexcept nogil:
    return a if <int64_t>a < <int64_t>b else b


cdef inline uint64_t insn_amomin_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomin_d(a, b)


cdef inline uint64_t insn_amomax_d(uint64_t a, uint64_t b) noexcept nogil:
    return a if <int64_t>a > <int64_t>b else b


cdef inline uint64_t insn_amomax_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomax_d(a, b)


cdef inline uint64_t insn_amominu_d(uint64_t a, uint64_t b) noexcept nogil:
    return a if a < b else b


cdef inline uint64_t insn_amominu_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amominu_d(<uint32_t>a, <uint32_t>b)


cdef inline uint64_t insn_amomaxu_d(uint64_t a, uint64_t b) noexcept nogil:
    return a if a > b else b


cdef inline uint64_t insn_amomaxu_w(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomaxu_d(<uint32_t>a, <uint32_t>b)


cdef inline uint64_t insn_amoswap_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoswap_d(a, b)


cdef inline uint64_t insn_amoswap_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoswap_d(a, b)


cdef inline uint64_t insn_amoadd_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoadd_d(a, b)


cdef inline uint64_t insn_amoadd_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoadd_d(a, b)


cdef inline uint64_t insn_amoxor_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoxor_d(a, b)


cdef inline uint64_t insn_amoxor_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoxor_d(a, b)


cdef inline uint64_t insn_amoand_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoand_d(a, b)


cdef inline uint64_t insn_amoand_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoand_d(a, b)


cdef inline uint64_t insn_amoor_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoor_d(a, b)


cdef inline uint64_t insn_amoor_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amoor_d(a, b)


cdef inline uint64_t insn_amomin_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomin_d(a, b)


cdef inline uint64_t insn_amomin_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomin_d(a, b)


cdef inline uint64_t insn_amomax_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomax_d(a, b)


cdef inline uint64_t insn_amomax_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomax_d(a, b)


cdef inline uint64_t insn_amominu_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amominu_d(<uint8_t>a, <uint8_t>b)


cdef inline uint64_t insn_amominu_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amominu_d(<uint16_t>a, <uint16_t>b)


cdef inline uint64_t insn_amomaxu_b(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomaxu_d(<uint8_t>a, <uint8_t>b)


cdef inline uint64_t insn_amomaxu_h(uint64_t a, uint64_t b) noexcept nogil:
    return insn_amomaxu_d(<uint16_t>a, <uint16_t>b)
