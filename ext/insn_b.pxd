"""Bodies of Zba, Zbb, Zbc, Zbs, Zbkb, Zbkx and Zicond: bit manipulation and conditional zero."""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bits cimport *


cdef inline uint64_t insn_add_uw(uint64_t a, uint64_t b) noexcept nogil:
    return <uint32_t>a + b


cdef inline uint64_t insn_sh1add(uint64_t a, uint64_t b) noexcept nogil:
    return (a << 1) + b


cdef inline uint64_t insn_sh2add(uint64_t a, uint64_t b) noexcept nogil:
    return (a << 2) + b


cdef inline uint64_t insn_sh3add(uint64_t a, uint64_t b) noexcept nogil:
    return (a << 3) + b


cdef inline uint64_t insn_sh1add_uw(uint64_t a, uint64_t b) noexcept nogil:
    return (<uint64_t><uint32_t>a << 1) + b


cdef inline uint64_t insn_sh2add_uw(uint64_t a, uint64_t b) noexcept nogil:
    return (<uint64_t><uint32_t>a << 2) + b


cdef inline uint64_t insn_sh3add_uw(uint64_t a, uint64_t b) noexcept nogil:
    return (<uint64_t><uint32_t>a << 3) + b


cdef inline uint64_t insn_slli_uw(uint64_t a, uint64_t b) noexcept nogil:
    return <uint64_t><uint32_t>a << b


cdef inline uint64_t insn_andn(uint64_t a, uint64_t b) noexcept nogil:
    return a & ~b


cdef inline uint64_t insn_orn(uint64_t a, uint64_t b) noexcept nogil:
    return a | ~b


cdef inline uint64_t insn_xnor(uint64_t a, uint64_t b) noexcept nogil:
    return ~(a ^ b)


cdef inline uint64_t insn_max(uint64_t a, uint64_t b) noexcept nogil:
    return a if <int64_t>a > <int64_t>b else b


cdef inline uint64_t insn_maxu(uint64_t a, uint64_t b) noexcept nogil:
    return a if a > b else b


cdef inline uint64_t insn_min(uint64_t a, uint64_t b) noexcept nogil:
    return a if <int64_t>a < <int64_t>b else b


cdef inline uint64_t insn_minu(uint64_t a, uint64_t b) noexcept nogil:
    return a if a < b else b


cdef inline uint64_t insn_rol(uint64_t a, uint64_t b) noexcept nogil:
    return (a << (b & 63)) | (a >> ((0 - b) & 63))


cdef inline uint64_t insn_ror(uint64_t a, uint64_t b) noexcept nogil:
    return (a >> (b & 63)) | (a << ((0 - b) & 63))


cdef inline uint64_t insn_rori(uint64_t a, uint64_t b) noexcept nogil:
    return (a >> b) | (a << ((0 - b) & 63))


cdef inline uint64_t insn_rolw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32((<uint32_t>a << (b & 31)) | (<uint32_t>a >> ((0 - b) & 31)))


cdef inline uint64_t insn_rorw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32((<uint32_t>a >> (b & 31)) | (<uint32_t>a << ((0 - b) & 31)))


cdef inline uint64_t insn_roriw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32((<uint32_t>a >> b) | (<uint32_t>a << ((0 - b) & 31)))


cdef inline uint64_t insn_bclr(uint64_t a, uint64_t b) noexcept nogil:
    return a & ~(<uint64_t>1 << (b & 63))


cdef inline uint64_t insn_bext(uint64_t a, uint64_t b) noexcept nogil:
    return (a >> (b & 63)) & 1


cdef inline uint64_t insn_binv(uint64_t a, uint64_t b) noexcept nogil:
    return a ^ (<uint64_t>1 << (b & 63))


cdef inline uint64_t insn_bset(uint64_t a, uint64_t b) noexcept nogil:
    return a | (<uint64_t>1 << (b & 63))


cdef inline uint64_t insn_bclri(uint64_t a, uint64_t b) noexcept nogil:
    return a & ~(<uint64_t>1 << b)


cdef inline uint64_t insn_bexti(uint64_t a, uint64_t b) noexcept nogil:
    return (a >> b) & 1


cdef inline uint64_t insn_binvi(uint64_t a, uint64_t b) noexcept nogil:
    return a ^ (<uint64_t>1 << b)


cdef inline uint64_t insn_bseti(uint64_t a, uint64_t b) noexcept nogil:
    return a | (<uint64_t>1 << b)


cdef inline uint64_t insn_czero_eqz(uint64_t a, uint64_t b) noexcept nogil:
    return 0 if b == 0 else a


cdef inline uint64_t insn_czero_nez(uint64_t a, uint64_t b) noexcept nogil:
    return 0 if b != 0 else a


cdef inline uint64_t insn_clz(uint64_t a) noexcept nogil:
    return <uint64_t>bits_clz64(a) if a else 64


cdef inline uint64_t insn_ctz(uint64_t a) noexcept nogil:
    return <uint64_t>bits_ctz64(a) if a else 64


cdef inline uint64_t insn_cpop(uint64_t a) noexcept nogil:
    return <uint64_t>bits_pop64(a)


cdef inline uint64_t insn_clzw(uint64_t a) noexcept nogil:
    return <uint64_t>bits_clz32(<uint32_t>a) if <uint32_t>a else 32


cdef inline uint64_t insn_ctzw(uint64_t a) noexcept nogil:
    return <uint64_t>bits_ctz32(<uint32_t>a) if <uint32_t>a else 32


cdef inline uint64_t insn_cpopw(uint64_t a) noexcept nogil:
    return <uint64_t>bits_pop64(<uint32_t>a)


cdef inline uint64_t insn_sext_b(uint64_t a) noexcept nogil:
    return sext8(a)


cdef inline uint64_t insn_sext_h(uint64_t a) noexcept nogil:
    return sext16(a)


cdef inline uint64_t insn_zext_h(uint64_t a) noexcept nogil:
    return <uint64_t><uint16_t>a


cdef inline uint64_t insn_rev8(uint64_t a) noexcept nogil:
    return bits_bswap64(a)


cdef inline uint64_t insn_orc_b(uint64_t a) noexcept nogil:
    # Fold each byte's bits into its lowest bit, then spread that bit over the byte.
    a |= (a >> 4) & 0x0F0F0F0F0F0F0F0FULL
    a |= (a >> 2) & 0x3333333333333333ULL
    a |= (a >> 1) & 0x5555555555555555ULL
    return (a & BITS_LSB_EACH) * 255


cdef inline uint64_t insn_clmul(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t r = 0
    while b:
        r ^= a << bits_ctz64(b)
        b &= b - 1
    return r


cdef inline uint64_t insn_clmulr(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t r = 0
    while b:
        r ^= a >> (63 - bits_ctz64(b))
        b &= b - 1
    return r


cdef inline uint64_t insn_clmulh(uint64_t a, uint64_t b) noexcept nogil:
    return insn_clmulr(a, b) >> 1


cdef inline uint64_t insn_pack(uint64_t a, uint64_t b) noexcept nogil:
    return <uint32_t>a | b << 32


cdef inline uint64_t insn_packh(uint64_t a, uint64_t b) noexcept nogil:
    return <uint64_t><uint8_t>a | <uint64_t><uint8_t>b << 8


cdef inline uint64_t insn_packw(uint64_t a, uint64_t b) noexcept nogil:
    return sext32(<uint64_t><uint16_t>a | <uint64_t><uint16_t>b << 16)


cdef inline uint64_t insn_brev8(uint64_t a) noexcept nogil:
    a = (a & 0x0F0F0F0F0F0F0F0FULL) << 4 | ((a >> 4) & 0x0F0F0F0F0F0F0F0FULL)
    a = (a & 0x3333333333333333ULL) << 2 | ((a >> 2) & 0x3333333333333333ULL)
    return (a & 0x5555555555555555ULL) << 1 | ((a >> 1) & 0x5555555555555555ULL)


cdef inline uint64_t insn_xperm4(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t r = 0
    cdef int i
    for i in range(16):
        r |= ((a >> (4 * ((b >> (4 * i)) & 15))) & 15) << (4 * i)
    return r


cdef inline uint64_t insn_xperm8(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t r = 0, at
    cdef int i
    for i in range(8):
        at = (b >> (8 * i)) & 255
        if at < 8:
            r |= ((a >> (8 * at)) & 255) << (8 * i)
    return r
