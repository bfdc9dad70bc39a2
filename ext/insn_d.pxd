"""The D extension: one inline body per instruction; the calling contract is in the head of insn_f.pxd.

Unprivileged manual, "D" extension for double-precision floating point.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fp_soft cimport (
    FP_BOX, FP_INF_D, FP_MAG_D, FP_MIN_D, FP_NAN_D, FP_SIGN_D, fx_add, fx_div, fx_fma, fx_from_int, fx_issnan, fx_mul,
    fx_convert, fx_neg, fx_sqrt, fx_to_int, likely, unlikely,
)
from fpenv cimport (
    FP_NV, PV_TINY_BEFORE, RM_RTZ, fp_mark, fp_raise, fp_rewind, fp_rounding, fp_tie, pv_fma_d, pv_has_fma,
    pv_hidden, pv_int_d, pv_le_d, pv_lt_d, pv_of_d, pv_sqrt_d, pv_to_d,
)
from insn_f cimport fp_border_s, fp_get_s, fp_put_s


cdef inline bint fp_isnan_d(uint64_t a) noexcept nogil: return (a & FP_MAG_D) > FP_INF_D


cdef inline uint64_t fp_put_d(double r) noexcept nogil:
    return pv_of_d(r) if likely(r == r) else pv_hidden(FP_NAN_D)


cdef inline bint fp_border_d(uint64_t r) noexcept nogil:
    """Whether the host may have raised underflow for a result that is not tiny after rounding."""
    return PV_TINY_BEFORE and (r & FP_MAG_D) == FP_MIN_D


cdef inline uint64_t fp_neg_d(uint64_t a) noexcept nogil: return a ^ FP_SIGN_D


# ---- arithmetic: native

cdef inline uint64_t insn_fadd_d(uint64_t a, uint64_t b) noexcept nogil: return fp_put_d(pv_to_d(a) + pv_to_d(b))
cdef inline uint64_t insn_fsub_d(uint64_t a, uint64_t b) noexcept nogil: return fp_put_d(pv_to_d(a) - pv_to_d(b))
cdef inline uint64_t insn_fsqrt_d(uint64_t a) noexcept nogil: return fp_put_d(pv_sqrt_d(pv_to_d(a)))


cdef inline uint64_t insn_fmul_d(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t mark = fp_mark()
    cdef uint64_t r = fp_put_d(pv_to_d(fp_tie(a, mark)) * pv_to_d(b))
    if fp_border_d(r):
        fp_rewind(mark)
        return soft_fmul_d(a, b, fp_rounding(), NULL)
    return r


cdef inline uint64_t insn_fdiv_d(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t mark = fp_mark()
    cdef uint64_t r = fp_put_d(pv_to_d(fp_tie(a, mark)) / pv_to_d(b))
    if fp_border_d(r):
        fp_rewind(mark)
        return soft_fdiv_d(a, b, fp_rounding(), NULL)
    return r


cdef inline bint fp_inf_zero_d(uint64_t a, uint64_t b) noexcept nogil:
    return (a & FP_MAG_D) == FP_INF_D and (b & FP_MAG_D) == 0


cdef inline uint64_t insn_fmadd_d(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    cdef uint64_t mark
    cdef double r
    if unlikely(not pv_has_fma()):
        return soft_fmadd_d(a, b, c, fp_rounding(), NULL)
    mark = fp_mark()
    r = pv_fma_d(pv_to_d(fp_tie(a, mark)), pv_to_d(b), pv_to_d(c))
    if unlikely(r != r):
        # x86 raises nothing for inf × 0 + quiet NaN.
        if fp_inf_zero_d(a, b) or fp_inf_zero_d(b, a):
            fp_raise(FP_NV)
        return FP_NAN_D
    if fp_border_d(pv_of_d(r)):
        fp_rewind(mark)
        return soft_fmadd_d(a, b, c, fp_rounding(), NULL)
    return pv_of_d(r)


# The signs go into the operands: the sum is rounded with the sign it has.
cdef inline uint64_t insn_fmsub_d(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return insn_fmadd_d(a, b, fp_neg_d(c))


cdef inline uint64_t insn_fnmsub_d(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return insn_fmadd_d(fp_neg_d(a), b, c)


cdef inline uint64_t insn_fnmadd_d(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return insn_fmadd_d(fp_neg_d(a), b, fp_neg_d(c))


# ---- arithmetic: by rm

cdef inline uint64_t soft_fadd_d(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return fx_add(a, b, rm, 53, flags)


cdef inline uint64_t soft_fsub_d(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return fx_add(a, fx_neg(b, 53), rm, 53, flags)


cdef inline uint64_t soft_fmul_d(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return fx_mul(a, b, rm, 53, flags)


cdef inline uint64_t soft_fdiv_d(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return fx_div(a, b, rm, 53, flags)


cdef inline uint64_t soft_fsqrt_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_sqrt(a, rm, 53, flags)


cdef inline uint64_t soft_fmadd_d(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return fx_fma(a, b, c, rm, 53, flags)


cdef inline uint64_t soft_fmsub_d(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return soft_fmadd_d(a, b, fp_neg_d(c), rm, flags)


cdef inline uint64_t soft_fnmsub_d(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return soft_fmadd_d(fp_neg_d(a), b, c, rm, flags)


cdef inline uint64_t soft_fnmadd_d(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return soft_fmadd_d(fp_neg_d(a), b, fp_neg_d(c), rm, flags)


# ---- signs, order, class
cdef inline uint64_t insn_fsgnj_d(uint64_t a, uint64_t b) noexcept nogil: return (a & FP_MAG_D) | (b & FP_SIGN_D)
cdef inline uint64_t insn_fsgnjn_d(uint64_t a, uint64_t b) noexcept nogil: return (a & FP_MAG_D) | (~b & FP_SIGN_D)
cdef inline uint64_t insn_fsgnjx_d(uint64_t a, uint64_t b) noexcept nogil: return (a & FP_MAG_D) | ((a ^ b) & FP_SIGN_D)


cdef inline int64_t fp_order_d(uint64_t a) noexcept nogil:
    """Integers in the order of the numbers, -0 before +0."""
    return <int64_t>(a ^ (<uint64_t>(<int64_t>a >> 63) >> 1))


cdef inline uint64_t fp_nan_pair_d(uint64_t a, uint64_t b) noexcept nogil:
    """Minimum and maximum where one is a NaN: the other; NV for a signalling one."""
    if fx_issnan(a, 53) or fx_issnan(b, 53):
        fp_raise(FP_NV)
    if not fp_isnan_d(a):
        return a
    return b if not fp_isnan_d(b) else FP_NAN_D


cdef inline uint64_t insn_fmin_d(uint64_t a, uint64_t b) noexcept nogil:
    if unlikely(fp_isnan_d(a) or fp_isnan_d(b)):
        return fp_nan_pair_d(a, b)
    return a if fp_order_d(a) < fp_order_d(b) else b


cdef inline uint64_t insn_fmax_d(uint64_t a, uint64_t b) noexcept nogil:
    if unlikely(fp_isnan_d(a) or fp_isnan_d(b)):
        return fp_nan_pair_d(a, b)
    return a if fp_order_d(a) > fp_order_d(b) else b


cdef inline uint64_t insn_feq_d(uint64_t a, uint64_t b) noexcept nogil: return pv_to_d(a) == pv_to_d(b)  # quiet
cdef inline uint64_t insn_flt_d(uint64_t a, uint64_t b) noexcept nogil: return pv_lt_d(pv_to_d(a), pv_to_d(b))
cdef inline uint64_t insn_fle_d(uint64_t a, uint64_t b) noexcept nogil: return pv_le_d(pv_to_d(a), pv_to_d(b))


cdef inline uint64_t insn_fclass_d(uint64_t a) noexcept nogil:
    cdef uint64_t mag = a & FP_MAG_D
    if mag > FP_INF_D:
        return 1 << 8 if fx_issnan(a, 53) else 1 << 9
    if mag == FP_INF_D:
        return 1 << 0 if a != mag else 1 << 7
    if mag >= FP_MIN_D:
        return 1 << 1 if a != mag else 1 << 6
    if mag != 0:
        return 1 << 2 if a != mag else 1 << 5
    return 1 << 3 if a != mag else 1 << 4


# ---- to integers. What surely fits once rounded is `fast` and goes to the host; borders, negatives for unsigned types,
# infinities and NaN go to fx_to_int.

cdef inline bint fast_fcvt_w_d(uint64_t a) noexcept nogil: return (a & FP_MAG_D) <= 0x41dfffffffc00000ULL
cdef inline bint fast_fcvt_wu_d(uint64_t a) noexcept nogil: return a <= 0x41efffffffe00000ULL
cdef inline bint fast_fcvt_l_d(uint64_t a) noexcept nogil: return (a & FP_MAG_D) < 0x43e0000000000000ULL
cdef inline bint fast_fcvt_lu_d(uint64_t a) noexcept nogil: return a < 0x43e0000000000000ULL


cdef inline uint64_t insn_fcvt_w_d(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_w_d(a)):
        return <uint64_t>pv_int_d(pv_to_d(a))
    return fx_to_int(a, fp_rounding(), 53, True, 32, NULL)


cdef inline uint64_t soft_fcvt_w_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_w_d(a)):
        return <uint64_t><int64_t>pv_to_d(a)
    return fx_to_int(a, rm, 53, True, 32, flags)


cdef inline uint64_t insn_fcvt_wu_d(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_wu_d(a)):
        return <uint64_t><int64_t><int32_t>pv_int_d(pv_to_d(a))
    return fx_to_int(a, fp_rounding(), 53, False, 32, NULL)


cdef inline uint64_t soft_fcvt_wu_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_wu_d(a)):
        return <uint64_t><int64_t><int32_t><int64_t>pv_to_d(a)
    return fx_to_int(a, rm, 53, False, 32, flags)


cdef inline uint64_t insn_fcvt_l_d(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_l_d(a)):
        return <uint64_t>pv_int_d(pv_to_d(a))
    return fx_to_int(a, fp_rounding(), 53, True, 64, NULL)


cdef inline uint64_t soft_fcvt_l_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_l_d(a)):
        return <uint64_t><int64_t>pv_to_d(a)
    return fx_to_int(a, rm, 53, True, 64, flags)


cdef inline uint64_t insn_fcvt_lu_d(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_lu_d(a)):
        return <uint64_t>pv_int_d(pv_to_d(a))
    return fx_to_int(a, fp_rounding(), 53, False, 64, NULL)


cdef inline uint64_t soft_fcvt_lu_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_lu_d(a)):
        return <uint64_t><int64_t>pv_to_d(a)
    return fx_to_int(a, rm, 53, False, 64, flags)


# ---- from integers

cdef inline uint64_t insn_fcvt_d_w(uint64_t a) noexcept nogil: return pv_of_d(<double><int32_t>a)
cdef inline uint64_t insn_fcvt_d_wu(uint64_t a) noexcept nogil: return pv_of_d(<double><int64_t><uint32_t>a)
cdef inline uint64_t insn_fcvt_d_l(uint64_t a) noexcept nogil: return pv_of_d(<double><int64_t>a)


cdef inline uint64_t insn_fcvt_d_lu(uint64_t a) noexcept nogil:
    cdef double half
    if likely(<int64_t>a >= 0):
        return pv_of_d(<double><int64_t>a)
    half = <double><int64_t>(a >> 1 | (a & 1))  # by hand: a compiler's own may give -0 or round twice in directed modes
    return pv_of_d(half + half)


cdef inline uint64_t fp_from_signed_d(int64_t a, int rm, uint32_t* flags) noexcept nogil:
    if a < 0:
        return fx_from_int(1, 0 - <uint64_t>a, rm, 53, flags)
    return fx_from_int(0, <uint64_t>a, rm, 53, flags)


cdef inline uint64_t soft_fcvt_d_w(uint64_t a, int rm, uint32_t* flags) noexcept nogil: return insn_fcvt_d_w(a)  # exact


cdef inline uint64_t soft_fcvt_d_wu(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return insn_fcvt_d_wu(a)  # exact


cdef inline uint64_t soft_fcvt_d_l(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_d(<int64_t>a, rm, flags)


cdef inline uint64_t soft_fcvt_d_lu(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fx_from_int(0, a, rm, 53, flags)


# ---- between the formats, and moves

cdef inline uint64_t insn_fcvt_d_s(uint64_t a) noexcept nogil: return fp_put_d(<double>fp_get_s(a))  # exact


cdef inline uint64_t insn_fcvt_s_d(uint64_t a) noexcept nogil:
    cdef uint64_t mark = fp_mark()
    cdef uint64_t r = fp_put_s(<float>pv_to_d(fp_tie(a, mark)))
    if fp_border_s(r):
        fp_rewind(mark)
        return soft_fcvt_s_d(a, fp_rounding(), NULL)
    return r


cdef inline uint64_t soft_fcvt_s_d(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_convert(a, rm, 53, 24, flags)


cdef inline uint64_t soft_fcvt_d_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil: return insn_fcvt_d_s(a)  # exact


cdef inline uint64_t insn_fmv_x_d(uint64_t a) noexcept nogil: return a
cdef inline uint64_t insn_fmv_d_x(uint64_t a) noexcept nogil: return a
