"""Zfa: constants, minimum and maximum that keep NaN, rounding to integers, quiet comparisons.

insn_f.pxd says what is called how. Unprivileged manual, "Zfa" extension.
"""
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from fp_soft cimport (
    FP_BOX, FP_BOX_H, FP_INF_D, fx_exp, fx_extreme, fx_integral, fx_le, fx_lt, fx_mag, fx_sig, fx_sign, fx_to_int,
    fx_unbox, fx_unbox_h,
)
from fpenv cimport RM_RTZ, fp_rounding


cdef extern from *:
    """
    #ifndef PV_FLI_H
    #define PV_FLI_H
    /* -1, the smallest normal, 2^-16, 2^-15, 2^-8, 2^-7, 1/16 ... 256, 2^15, 2^16, infinity, NaN; 2^16 is infinity as a
       half. Manual, table "Immediate values loaded by the FLI instruction". */
    static const uint16_t pv_fli_h[32] = {
        0xbc00, 0x0400, 0x0100, 0x0200, 0x1c00, 0x2000, 0x2c00, 0x3000, 0x3400, 0x3500, 0x3600, 0x3700, 0x3800,
        0x3900, 0x3a00, 0x3b00, 0x3c00, 0x3d00, 0x3e00, 0x3f00, 0x4000, 0x4100, 0x4200, 0x4400, 0x4800, 0x4c00,
        0x5800, 0x5c00, 0x7800, 0x7c00, 0x7c00, 0x7e00};
    static const uint32_t pv_fli_s[32] = {
        0xbf800000, 0x00800000, 0x37800000, 0x38000000, 0x3b800000, 0x3c000000, 0x3d800000, 0x3e000000,
        0x3e800000, 0x3ea00000, 0x3ec00000, 0x3ee00000, 0x3f000000, 0x3f200000, 0x3f400000, 0x3f600000,
        0x3f800000, 0x3fa00000, 0x3fc00000, 0x3fe00000, 0x40000000, 0x40200000, 0x40400000, 0x40800000,
        0x41000000, 0x41800000, 0x43000000, 0x43800000, 0x47000000, 0x47800000, 0x7f800000, 0x7fc00000};
    static const uint64_t pv_fli_d[32] = {
        0xbff0000000000000ULL, 0x0010000000000000ULL, 0x3ef0000000000000ULL, 0x3f00000000000000ULL,
        0x3f70000000000000ULL, 0x3f80000000000000ULL, 0x3fb0000000000000ULL, 0x3fc0000000000000ULL,
        0x3fd0000000000000ULL, 0x3fd4000000000000ULL, 0x3fd8000000000000ULL, 0x3fdc000000000000ULL,
        0x3fe0000000000000ULL, 0x3fe4000000000000ULL, 0x3fe8000000000000ULL, 0x3fec000000000000ULL,
        0x3ff0000000000000ULL, 0x3ff4000000000000ULL, 0x3ff8000000000000ULL, 0x3ffc000000000000ULL,
        0x4000000000000000ULL, 0x4004000000000000ULL, 0x4008000000000000ULL, 0x4010000000000000ULL,
        0x4020000000000000ULL, 0x4030000000000000ULL, 0x4060000000000000ULL, 0x4070000000000000ULL,
        0x40e0000000000000ULL, 0x40f0000000000000ULL, 0x7ff0000000000000ULL, 0x7ff8000000000000ULL};
    #endif
    """
    const uint16_t pv_fli_h[]
    const uint32_t pv_fli_s[]
    const uint64_t pv_fli_d[]


cdef inline uint64_t insn_fli_h(uint64_t i) noexcept nogil: return FP_BOX_H | pv_fli_h[i & 31]
cdef inline uint64_t insn_fli_s(uint64_t i) noexcept nogil: return FP_BOX | pv_fli_s[i & 31]
cdef inline uint64_t insn_fli_d(uint64_t i) noexcept nogil: return pv_fli_d[i & 31]


cdef inline uint64_t insn_fminm_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_extreme(fx_unbox_h(a), fx_unbox_h(b), 11, False, False)


cdef inline uint64_t insn_fmaxm_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_extreme(fx_unbox_h(a), fx_unbox_h(b), 11, True, False)


cdef inline uint64_t insn_fleq_h(uint64_t a, uint64_t b) noexcept nogil:
    return fx_le(fx_unbox_h(a), fx_unbox_h(b), 11, True)


cdef inline uint64_t insn_fltq_h(uint64_t a, uint64_t b) noexcept nogil:
    return fx_lt(fx_unbox_h(a), fx_unbox_h(b), 11, True)


cdef inline uint64_t soft_fround_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_integral(fx_unbox_h(a), rm, 11, False, flags)


cdef inline uint64_t insn_fround_h(uint64_t a) noexcept nogil: return soft_fround_h(a, fp_rounding(), NULL)


cdef inline uint64_t soft_froundnx_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_integral(fx_unbox_h(a), rm, 11, True, flags)


cdef inline uint64_t insn_froundnx_h(uint64_t a) noexcept nogil: return soft_froundnx_h(a, fp_rounding(), NULL)


cdef inline uint64_t insn_fminm_s(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX | fx_extreme(fx_unbox(a), fx_unbox(b), 24, False, False)


cdef inline uint64_t insn_fmaxm_s(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX | fx_extreme(fx_unbox(a), fx_unbox(b), 24, True, False)


cdef inline uint64_t insn_fleq_s(uint64_t a, uint64_t b) noexcept nogil:
    return fx_le(fx_unbox(a), fx_unbox(b), 24, True)


cdef inline uint64_t insn_fltq_s(uint64_t a, uint64_t b) noexcept nogil:
    return fx_lt(fx_unbox(a), fx_unbox(b), 24, True)


cdef inline uint64_t soft_fround_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_integral(fx_unbox(a), rm, 24, False, flags)


cdef inline uint64_t insn_fround_s(uint64_t a) noexcept nogil: return soft_fround_s(a, fp_rounding(), NULL)


cdef inline uint64_t soft_froundnx_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_integral(fx_unbox(a), rm, 24, True, flags)


cdef inline uint64_t insn_froundnx_s(uint64_t a) noexcept nogil: return soft_froundnx_s(a, fp_rounding(), NULL)

cdef inline uint64_t insn_fminm_d(uint64_t a, uint64_t b) noexcept nogil: return fx_extreme(a, b, 53, False, False)
cdef inline uint64_t insn_fmaxm_d(uint64_t a, uint64_t b) noexcept nogil: return fx_extreme(a, b, 53, True, False)
cdef inline uint64_t insn_fleq_d(uint64_t a, uint64_t b) noexcept nogil: return fx_le(a, b, 53, True)
cdef inline uint64_t insn_fltq_d(uint64_t a, uint64_t b) noexcept nogil: return fx_lt(a, b, 53, True)


cdef inline uint64_t soft_fround_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_integral(a, rm, 53, False, flags)


cdef inline uint64_t insn_fround_d(uint64_t a) noexcept nogil: return soft_fround_d(a, fp_rounding(), NULL)


cdef inline uint64_t soft_froundnx_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_integral(a, rm, 53, True, flags)


cdef inline uint64_t insn_froundnx_d(uint64_t a) noexcept nogil: return soft_froundnx_d(a, fp_rounding(), NULL)


cdef inline uint64_t insn_fcvtmod_w_d(uint64_t a) noexcept nogil:
    """Truncate modulo 2^32; the exceptions are those of fcvt.w.d."""
    cdef uint64_t mag = fx_mag(a, 53), n
    cdef int e
    n = fx_to_int(a, RM_RTZ, 53, True, 32, NULL)
    if mag == 0 or mag >= FP_INF_D:
        return 0
    e = fx_exp(mag, 53)
    if e < 31:
        return n
    # Bit 52 of the significand has the weight 2^e.
    n = 0 if e >= 84 else (fx_sig(mag, 53) >> (63 - e) if e < 64 else (fx_sig(mag, 53) >> 11) << (e - 52))
    return <uint64_t><int64_t><int32_t>(0 - n if fx_sign(a, 53) else n)
