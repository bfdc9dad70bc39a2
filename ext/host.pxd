"""Unaligned little-endian access to host memory, and the tags that a TLB compare keeps."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <string.h>
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "pyvirt needs a little-endian host"
    #endif
    /* The page bits and the low bits of the access: an aligned access equals its page, any other misses. */
    #define TAG_1 0xfffffffffffff000ULL
    #define TAG_2 0xfffffffffffff001ULL
    #define TAG_4 0xfffffffffffff003ULL
    #define TAG_8 0xfffffffffffff007ULL
    #define TAG_NONE 0xffffffffffffffffULL
    #define FP_BOX 0xffffffff00000000ULL
    #define FP_BOX_H 0xffffffffffff0000ULL
    #define HOST_ACCESS(bits, type) \\
        static inline unsigned long long host_u##bits(unsigned long long at) \\
        { type v; memcpy(&v, (const void *)at, sizeof v); return v; } \\
        static inline void host_set##bits(unsigned long long at, unsigned long long value) \\
        { type v = (type)value; memcpy((void *)at, &v, sizeof v); }
    HOST_ACCESS(8, unsigned char)
    HOST_ACCESS(16, unsigned short)
    HOST_ACCESS(32, unsigned int)
    HOST_ACCESS(64, unsigned long long)
    """
    const uint64_t TAG_1, TAG_2, TAG_4, TAG_8, TAG_NONE, FP_BOX, FP_BOX_H
    uint64_t host_u8(uint64_t at) noexcept nogil
    uint64_t host_u16(uint64_t at) noexcept nogil
    uint64_t host_u32(uint64_t at) noexcept nogil
    uint64_t host_u64(uint64_t at) noexcept nogil
    void host_set8(uint64_t at, uint64_t value) noexcept nogil
    void host_set16(uint64_t at, uint64_t value) noexcept nogil
    void host_set32(uint64_t at, uint64_t value) noexcept nogil
    void host_set64(uint64_t at, uint64_t value) noexcept nogil
