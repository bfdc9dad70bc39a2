"""Zfhmin and Zfh: half precision, all of it by software; insn_f.pxd says what is called how.

A half lies boxed in a register: the upper 48 bits are ones, anything else counts as the canonical NaN. The native
bodies are the soft ones with the host's rounding mode. Unprivileged manual, "Zfh" and "Zfhmin" extensions.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t

from fp_soft cimport (
    FP_BOX, FP_BOX_H, fx_add, fx_class, fx_convert, fx_div, fx_eq, fx_extreme, fx_fma, fx_from_int, fx_le, fx_lt,
    fx_mag, fx_mul, fx_neg, fx_sign, fx_signed, fx_sqrt, fx_to_int, fx_unbox, fx_unbox_h,
)
from fpenv cimport fp_rounding


cdef inline uint64_t soft_fadd_h(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_add(fx_unbox_h(a), fx_unbox_h(b), rm, 11, flags)


cdef inline uint64_t insn_fadd_h(uint64_t a, uint64_t b) noexcept nogil: return soft_fadd_h(a, b, fp_rounding(), NULL)


cdef inline uint64_t soft_fmul_h(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_mul(fx_unbox_h(a), fx_unbox_h(b), rm, 11, flags)


cdef inline uint64_t insn_fmul_h(uint64_t a, uint64_t b) noexcept nogil: return soft_fmul_h(a, b, fp_rounding(), NULL)


cdef inline uint64_t soft_fdiv_h(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_div(fx_unbox_h(a), fx_unbox_h(b), rm, 11, flags)


cdef inline uint64_t insn_fdiv_h(uint64_t a, uint64_t b) noexcept nogil: return soft_fdiv_h(a, b, fp_rounding(), NULL)


cdef inline uint64_t soft_fsub_h(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_add(fx_unbox_h(a), fx_neg(fx_unbox_h(b), 11), rm, 11, flags)


cdef inline uint64_t insn_fsub_h(uint64_t a, uint64_t b) noexcept nogil: return soft_fsub_h(a, b, fp_rounding(), NULL)


cdef inline uint64_t soft_fsqrt_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_sqrt(fx_unbox_h(a), rm, 11, flags)


cdef inline uint64_t insn_fsqrt_h(uint64_t a) noexcept nogil: return soft_fsqrt_h(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fmadd_h(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_fma(fx_unbox_h(a), fx_unbox_h(b), fx_unbox_h(c), rm, 11, flags)


cdef inline uint64_t insn_fmadd_h(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return soft_fmadd_h(a, b, c, fp_rounding(), NULL)


cdef inline uint64_t soft_fmsub_h(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_fma(fx_unbox_h(a), fx_unbox_h(b), fx_neg(fx_unbox_h(c), 11), rm, 11, flags)


cdef inline uint64_t insn_fmsub_h(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return soft_fmsub_h(a, b, c, fp_rounding(), NULL)


cdef inline uint64_t soft_fnmsub_h(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_fma(fx_neg(fx_unbox_h(a), 11), fx_unbox_h(b), fx_unbox_h(c), rm, 11, flags)


cdef inline uint64_t insn_fnmsub_h(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return soft_fnmsub_h(a, b, c, fp_rounding(), NULL)


cdef inline uint64_t soft_fnmadd_h(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_fma(fx_neg(fx_unbox_h(a), 11), fx_unbox_h(b), fx_neg(fx_unbox_h(c), 11), rm, 11, flags)


cdef inline uint64_t insn_fnmadd_h(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return soft_fnmadd_h(a, b, c, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_w_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_to_int(fx_unbox_h(a), rm, 11, True, 32, flags)


cdef inline uint64_t insn_fcvt_w_h(uint64_t a) noexcept nogil: return soft_fcvt_w_h(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_wu_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_to_int(fx_unbox_h(a), rm, 11, False, 32, flags)


cdef inline uint64_t insn_fcvt_wu_h(uint64_t a) noexcept nogil: return soft_fcvt_wu_h(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_l_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_to_int(fx_unbox_h(a), rm, 11, True, 64, flags)


cdef inline uint64_t insn_fcvt_l_h(uint64_t a) noexcept nogil: return soft_fcvt_l_h(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_lu_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_to_int(fx_unbox_h(a), rm, 11, False, 64, flags)


cdef inline uint64_t insn_fcvt_lu_h(uint64_t a) noexcept nogil: return soft_fcvt_lu_h(a, fp_rounding(), NULL)


cdef inline uint64_t fp_from_signed_h(int64_t a, int rm, uint32_t* flags) noexcept nogil:
    if a < 0:
        return FP_BOX_H | fx_from_int(1, 0 - <uint64_t>a, rm, 11, flags)
    return FP_BOX_H | fx_from_int(0, <uint64_t>a, rm, 11, flags)


cdef inline uint64_t soft_fcvt_h_w(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_h(<int32_t>a, rm, flags)


cdef inline uint64_t insn_fcvt_h_w(uint64_t a) noexcept nogil: return soft_fcvt_h_w(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_h_wu(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_h(<uint32_t>a, rm, flags)


cdef inline uint64_t insn_fcvt_h_wu(uint64_t a) noexcept nogil: return soft_fcvt_h_wu(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_h_l(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_h(<int64_t>a, rm, flags)


cdef inline uint64_t insn_fcvt_h_l(uint64_t a) noexcept nogil: return soft_fcvt_h_l(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_h_lu(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_from_int(0, a, rm, 11, flags)


cdef inline uint64_t insn_fcvt_h_lu(uint64_t a) noexcept nogil: return soft_fcvt_h_lu(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_h_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_convert(fx_unbox(a), rm, 24, 11, flags)


cdef inline uint64_t insn_fcvt_h_s(uint64_t a) noexcept nogil: return soft_fcvt_h_s(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_h_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX_H | fx_convert(a, rm, 53, 11, flags)


cdef inline uint64_t insn_fcvt_h_d(uint64_t a) noexcept nogil: return soft_fcvt_h_d(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_s_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_convert(fx_unbox_h(a), rm, 11, 24, flags)


cdef inline uint64_t insn_fcvt_s_h(uint64_t a) noexcept nogil: return soft_fcvt_s_h(a, fp_rounding(), NULL)


cdef inline uint64_t soft_fcvt_d_h(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_convert(fx_unbox_h(a), rm, 11, 53, flags)


cdef inline uint64_t insn_fcvt_d_h(uint64_t a) noexcept nogil: return soft_fcvt_d_h(a, fp_rounding(), NULL)


cdef inline uint64_t insn_fsgnj_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_signed(fx_mag(fx_unbox_h(a), 11), fx_sign(fx_unbox_h(b), 11), 11)


cdef inline uint64_t insn_fsgnjn_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_signed(fx_mag(fx_unbox_h(a), 11), fx_sign(fx_unbox_h(b), 11) ^ 1, 11)


cdef inline uint64_t insn_fsgnjx_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_signed(fx_unbox_h(a), 0, 11) ^ fx_signed(0, fx_sign(fx_unbox_h(b), 11), 11)


cdef inline uint64_t insn_fmin_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_extreme(fx_unbox_h(a), fx_unbox_h(b), 11, False, True)


cdef inline uint64_t insn_fmax_h(uint64_t a, uint64_t b) noexcept nogil:
    return FP_BOX_H | fx_extreme(fx_unbox_h(a), fx_unbox_h(b), 11, True, True)


cdef inline uint64_t insn_feq_h(uint64_t a, uint64_t b) noexcept nogil: return fx_eq(fx_unbox_h(a), fx_unbox_h(b), 11)


cdef inline uint64_t insn_flt_h(uint64_t a, uint64_t b) noexcept nogil:
    return fx_lt(fx_unbox_h(a), fx_unbox_h(b), 11, False)


cdef inline uint64_t insn_fle_h(uint64_t a, uint64_t b) noexcept nogil:
    return fx_le(fx_unbox_h(a), fx_unbox_h(b), 11, False)
cdef inline uint64_t insn_fclass_h(uint64_t a) noexcept nogil: return fx_class(fx_unbox_h(a), 11)
cdef inline uint64_t insn_fmv_x_h(uint64_t a) noexcept nogil: return <uint64_t><int64_t><int16_t>a
cdef inline uint64_t insn_fmv_h_x(uint64_t a) noexcept nogil: return FP_BOX_H | (a & 0xffff)
