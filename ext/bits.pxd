"""Sign extension, counting and wide multiplication: the arithmetic that instruction bodies share."""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #define LIKELY(c) __builtin_expect(!!(c), 1)
    #define UNLIKELY(c) __builtin_expect(!!(c), 0)
    #define bits_clz64(v) __builtin_clzll(v)
    #define bits_ctz64(v) __builtin_ctzll(v)
    #define bits_clz32(v) __builtin_clz(v)
    #define bits_ctz32(v) __builtin_ctz(v)
    #define bits_pop64(v) __builtin_popcountll(v)
    #define bits_bswap64(v) __builtin_bswap64(v)
    /* Signed high products through unsigned 128-bit arithmetic, which is defined for every operand. */
    static inline unsigned long long bits_mulhu(unsigned long long a, unsigned long long b)
    { return (unsigned long long)(((unsigned __int128)a * b) >> 64); }
    static inline unsigned long long bits_mulh(unsigned long long a, unsigned long long b)
    { return (unsigned long long)(((__int128)(long long)a * (long long)b) >> 64); }
    static inline unsigned long long bits_mulhsu(unsigned long long a, unsigned long long b)
    { return bits_mulhu(a, b) - ((long long)a < 0 ? b : 0); }
    #define BITS_INT64_MIN 0x8000000000000000ULL
    #define BITS_LSB_EACH 0x0101010101010101ULL
    """
    bint LIKELY(bint) noexcept nogil
    bint UNLIKELY(bint) noexcept nogil
    int bits_clz64(uint64_t) noexcept nogil
    int bits_ctz64(uint64_t) noexcept nogil
    int bits_clz32(uint32_t) noexcept nogil
    int bits_ctz32(uint32_t) noexcept nogil
    int bits_pop64(uint64_t) noexcept nogil
    uint64_t bits_bswap64(uint64_t) noexcept nogil
    uint64_t bits_mulhu(uint64_t, uint64_t) noexcept nogil
    uint64_t bits_mulh(uint64_t, uint64_t) noexcept nogil
    uint64_t bits_mulhsu(uint64_t, uint64_t) noexcept nogil
    const uint64_t BITS_INT64_MIN
    const uint64_t BITS_LSB_EACH


cdef inline uint64_t sext8(uint64_t v) noexcept nogil:
    return <uint64_t><int64_t><int8_t>v


cdef inline uint64_t sext16(uint64_t v) noexcept nogil:
    return <uint64_t><int64_t><int16_t>v


cdef inline uint64_t sext32(uint64_t v) noexcept nogil:
    return <uint64_t><int64_t><int32_t>v
