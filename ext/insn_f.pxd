"""The F extension: one inline body per instruction. This head is the contract of insn_d.pxd, too.

Names: the instruction's, dots to underscores: `fcvt.w.s` is `insn_fcvt_w_s` and `soft_fcvt_w_s`.

Values: operands and results are whole registers (uint64_t). An f register holds a single boxed; bodies unbox (anything
else counts as the canonical NaN) and box. Results for x registers are sign-extended as the manual says. Loads box by
`fp_box`; stores write the low half as it is.

Two bodies for every instruction with an rm field, one for the rest:
- `insn_NAME(a[, b[, c]])` rounds as the host does now: it serves rm = DYN, and a static rm that equals frm, while the
  host's mode is frm (fpenv.fp_enter, fp_set_rounding). Never when frm is RMM: no host rounds so. A reserved rm or frm
  is the caller's business.
- `soft_NAME(a[, b[, c]], int rm, uint32_t* flags)` rounds by rm, 0 to 4, whatever the host's mode: a static rm that
  differs from frm, and RMM. For rm = RTZ the conversions to integer are as fast as native.
- Without an rm field (fsgnj, fmin, fmax, feq, flt, fle, fclass, fmv) there is only `insn_NAME`.
Exact ones (fcvt.d.w, fcvt.d.wu, fcvt.d.s) ignore the mode; assemblers give them rm = RNE, and both bodies are native.

`fast_NAME(a)` of the conversions to integer says whether both bodies (soft: with rm = RTZ) are short; the fused
multiply-adds are where `pv_has_fma()`. A handler that tests it first and else jumps to a handler of the soft body keeps
its registers out of the stack; one that doesn't is right, too.

Flags: call between fp_enter and fp_leave. Native bodies raise in the host's sticky flags. Soft ones OR into *flags or,
for NULL, raise in the host's; they may use both. Pass the hart's own field, never a local's address: the handler would
no longer end in a jump. fflags is the OR of both.

Compile modules that include these with -O2 -frounding-math -ffp-contract=off -fno-math-errno.
Unprivileged manual, "F" extension for single-precision floating point.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fp_soft cimport (
    FP_BOX, FP_INF_S, FP_MAG_S, FP_MIN_S, FP_NAN_S, FP_SIGN_S, fx_add, fx_div, fx_fma, fx_from_int, fx_issnan, fx_mul,
    fx_neg, fx_sqrt, fx_to_int, fx_unbox, likely, unlikely,
)
from fpenv cimport (
    FP_NV, PV_TINY_BEFORE, RM_RTZ, fp_mark, fp_raise, fp_rewind, fp_rounding, fp_tie, pv_fma_s, pv_has_fma,
    pv_hidden, pv_int_s, pv_le_s, pv_lt_s, pv_of_s, pv_sqrt_s, pv_to_s,
)


cdef inline uint64_t fp_box(uint64_t a) noexcept nogil: return FP_BOX | (a & 0xffffffffULL)
cdef inline bint fp_isnan_s(uint64_t a) noexcept nogil: return (a & FP_MAG_S) > FP_INF_S


cdef inline float fp_get_s(uint64_t a) noexcept nogil:
    return pv_to_s(<uint32_t>(a if likely(a >= FP_BOX) else pv_hidden(FP_NAN_S)))


cdef inline uint64_t fp_put_s(float r) noexcept nogil:
    return FP_BOX | <uint64_t>pv_of_s(r) if likely(r == r) else pv_hidden(FP_BOX | FP_NAN_S)


cdef inline bint fp_border_s(uint64_t r) noexcept nogil:
    """Whether the host may have raised underflow for a boxed result that is not tiny after rounding."""
    return PV_TINY_BEFORE and (r & FP_MAG_S) == FP_MIN_S


cdef inline uint64_t fp_neg_s(uint64_t a) noexcept nogil: return FP_BOX | (fx_unbox(a) ^ FP_SIGN_S)


# ---- arithmetic: native

cdef inline uint64_t insn_fadd_s(uint64_t a, uint64_t b) noexcept nogil: return fp_put_s(fp_get_s(a) + fp_get_s(b))
cdef inline uint64_t insn_fsub_s(uint64_t a, uint64_t b) noexcept nogil: return fp_put_s(fp_get_s(a) - fp_get_s(b))
cdef inline uint64_t insn_fsqrt_s(uint64_t a) noexcept nogil: return fp_put_s(pv_sqrt_s(fp_get_s(a)))


cdef inline uint64_t insn_fmul_s(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t mark = fp_mark()
    cdef uint64_t r = fp_put_s(fp_get_s(fp_tie(a, mark)) * fp_get_s(b))
    if fp_border_s(r):
        fp_rewind(mark)
        return soft_fmul_s(a, b, fp_rounding(), NULL)
    return r


cdef inline uint64_t insn_fdiv_s(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t mark = fp_mark()
    cdef uint64_t r = fp_put_s(fp_get_s(fp_tie(a, mark)) / fp_get_s(b))
    if fp_border_s(r):
        fp_rewind(mark)
        return soft_fdiv_s(a, b, fp_rounding(), NULL)
    return r


cdef inline bint fp_inf_zero_s(uint64_t a, uint64_t b) noexcept nogil:
    return a >= FP_BOX and b >= FP_BOX and (a & FP_MAG_S) == FP_INF_S and (b & FP_MAG_S) == 0


cdef inline uint64_t insn_fmadd_s(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    cdef uint64_t mark
    cdef float r
    if unlikely(not pv_has_fma()):
        return soft_fmadd_s(a, b, c, fp_rounding(), NULL)
    mark = fp_mark()
    r = pv_fma_s(fp_get_s(fp_tie(a, mark)), fp_get_s(b), fp_get_s(c))
    if unlikely(r != r):
        # x86 raises nothing for inf × 0 + quiet NaN.
        if fp_inf_zero_s(a, b) or fp_inf_zero_s(b, a):
            fp_raise(FP_NV)
        return FP_BOX | FP_NAN_S
    if fp_border_s(pv_of_s(r)):
        fp_rewind(mark)
        return soft_fmadd_s(a, b, c, fp_rounding(), NULL)
    return FP_BOX | <uint64_t>pv_of_s(r)


# The signs go into the operands: the sum is rounded with the sign it has.
cdef inline uint64_t insn_fmsub_s(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return insn_fmadd_s(a, b, fp_neg_s(c))


cdef inline uint64_t insn_fnmsub_s(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return insn_fmadd_s(fp_neg_s(a), b, c)


cdef inline uint64_t insn_fnmadd_s(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return insn_fmadd_s(fp_neg_s(a), b, fp_neg_s(c))


# ---- arithmetic: by rm

cdef inline uint64_t soft_fadd_s(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_add(fx_unbox(a), fx_unbox(b), rm, 24, flags)


cdef inline uint64_t soft_fsub_s(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_add(fx_unbox(a), fx_neg(fx_unbox(b), 24), rm, 24, flags)


cdef inline uint64_t soft_fmul_s(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_mul(fx_unbox(a), fx_unbox(b), rm, 24, flags)


cdef inline uint64_t soft_fdiv_s(uint64_t a, uint64_t b, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_div(fx_unbox(a), fx_unbox(b), rm, 24, flags)


cdef inline uint64_t soft_fsqrt_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_sqrt(fx_unbox(a), rm, 24, flags)


cdef inline uint64_t soft_fmadd_s(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_fma(fx_unbox(a), fx_unbox(b), fx_unbox(c), rm, 24, flags)


cdef inline uint64_t soft_fmsub_s(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return soft_fmadd_s(a, b, fp_neg_s(c), rm, flags)


cdef inline uint64_t soft_fnmsub_s(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return soft_fmadd_s(fp_neg_s(a), b, c, rm, flags)


cdef inline uint64_t soft_fnmadd_s(uint64_t a, uint64_t b, uint64_t c, int rm, uint32_t* flags) noexcept nogil:
    return soft_fmadd_s(fp_neg_s(a), b, fp_neg_s(c), rm, flags)


# ---- signs, order, class

cdef inline uint64_t insn_fsgnj_s(uint64_t a, uint64_t b) noexcept nogil:
    a = fx_unbox(a)
    b = fx_unbox(b)
    return FP_BOX | (a & FP_MAG_S) | (b & FP_SIGN_S)


cdef inline uint64_t insn_fsgnjn_s(uint64_t a, uint64_t b) noexcept nogil:
    a = fx_unbox(a)
    b = fx_unbox(b)
    return FP_BOX | (a & FP_MAG_S) | (~b & FP_SIGN_S)


cdef inline uint64_t insn_fsgnjx_s(uint64_t a, uint64_t b) noexcept nogil:
    a = fx_unbox(a)
    b = fx_unbox(b)
    return FP_BOX | (a & FP_MAG_S) | ((a ^ b) & FP_SIGN_S)


cdef inline int64_t fp_order_s(uint64_t a) noexcept nogil:
    """Integers in the order of the numbers, -0 before +0."""
    cdef int64_t v = <int32_t>a
    return v ^ ((v >> 63) & 0x7fffffff)


cdef inline uint64_t fp_nan_pair_s(uint64_t a, uint64_t b) noexcept nogil:
    """Minimum and maximum where one is a NaN: the other; NV for a signalling one."""
    if fx_issnan(a, 24) or fx_issnan(b, 24):
        fp_raise(FP_NV)
    if not fp_isnan_s(a):
        return FP_BOX | a
    return FP_BOX | (b if not fp_isnan_s(b) else FP_NAN_S)


cdef inline uint64_t insn_fmin_s(uint64_t a, uint64_t b) noexcept nogil:
    a = fx_unbox(a)
    b = fx_unbox(b)
    if unlikely(fp_isnan_s(a) or fp_isnan_s(b)):
        return fp_nan_pair_s(a, b)
    return FP_BOX | (a if fp_order_s(a) < fp_order_s(b) else b)


cdef inline uint64_t insn_fmax_s(uint64_t a, uint64_t b) noexcept nogil:
    a = fx_unbox(a)
    b = fx_unbox(b)
    if unlikely(fp_isnan_s(a) or fp_isnan_s(b)):
        return fp_nan_pair_s(a, b)
    return FP_BOX | (a if fp_order_s(a) > fp_order_s(b) else b)


cdef inline uint64_t insn_feq_s(uint64_t a, uint64_t b) noexcept nogil: return fp_get_s(a) == fp_get_s(b)  # quiet
cdef inline uint64_t insn_flt_s(uint64_t a, uint64_t b) noexcept nogil: return pv_lt_s(fp_get_s(a), fp_get_s(b))
cdef inline uint64_t insn_fle_s(uint64_t a, uint64_t b) noexcept nogil: return pv_le_s(fp_get_s(a), fp_get_s(b))


cdef inline uint64_t insn_fclass_s(uint64_t a) noexcept nogil:
    cdef uint64_t v = fx_unbox(a), mag = v & FP_MAG_S
    if mag > FP_INF_S:
        return 1 << 8 if fx_issnan(v, 24) else 1 << 9
    if mag == FP_INF_S:
        return 1 << 0 if v != mag else 1 << 7
    if mag >= FP_MIN_S:
        return 1 << 1 if v != mag else 1 << 6
    if mag != 0:
        return 1 << 2 if v != mag else 1 << 5
    return 1 << 3 if v != mag else 1 << 4


# ---- to integers. What surely fits once rounded is `fast` and goes to the host; borders, negatives for unsigned types,
# infinities and NaN go to fx_to_int.

# One unsigned compare: less than the boxed power of two, and boxed, or the difference would wrap.
cdef inline bint fast_fcvt_w_s(uint64_t a) noexcept nogil: return (a & ~FP_SIGN_S) - FP_BOX < 0x4f000000
cdef inline bint fast_fcvt_wu_s(uint64_t a) noexcept nogil: return a - FP_BOX < 0x4f800000
cdef inline bint fast_fcvt_l_s(uint64_t a) noexcept nogil: return (a & ~FP_SIGN_S) - FP_BOX < 0x5f000000
cdef inline bint fast_fcvt_lu_s(uint64_t a) noexcept nogil: return a - FP_BOX < 0x5f000000


cdef inline uint64_t insn_fcvt_w_s(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_w_s(a)):
        return <uint64_t>pv_int_s(pv_to_s(<uint32_t>a))
    return fx_to_int(fx_unbox(a), fp_rounding(), 24, True, 32, NULL)


cdef inline uint64_t soft_fcvt_w_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_w_s(a)):
        return <uint64_t><int64_t>pv_to_s(<uint32_t>a)
    return fx_to_int(fx_unbox(a), rm, 24, True, 32, flags)


cdef inline uint64_t insn_fcvt_wu_s(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_wu_s(a)):
        return <uint64_t><int64_t><int32_t>pv_int_s(pv_to_s(<uint32_t>a))
    return fx_to_int(fx_unbox(a), fp_rounding(), 24, False, 32, NULL)


cdef inline uint64_t soft_fcvt_wu_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_wu_s(a)):
        return <uint64_t><int64_t><int32_t><int64_t>pv_to_s(<uint32_t>a)
    return fx_to_int(fx_unbox(a), rm, 24, False, 32, flags)


cdef inline uint64_t insn_fcvt_l_s(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_l_s(a)):
        return <uint64_t>pv_int_s(pv_to_s(<uint32_t>a))
    return fx_to_int(fx_unbox(a), fp_rounding(), 24, True, 64, NULL)


cdef inline uint64_t soft_fcvt_l_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_l_s(a)):
        return <uint64_t><int64_t>pv_to_s(<uint32_t>a)
    return fx_to_int(fx_unbox(a), rm, 24, True, 64, flags)


cdef inline uint64_t insn_fcvt_lu_s(uint64_t a) noexcept nogil:
    if likely(fast_fcvt_lu_s(a)):
        return <uint64_t>pv_int_s(pv_to_s(<uint32_t>a))
    return fx_to_int(fx_unbox(a), fp_rounding(), 24, False, 64, NULL)


cdef inline uint64_t soft_fcvt_lu_s(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    if rm == RM_RTZ and likely(fast_fcvt_lu_s(a)):
        return <uint64_t><int64_t>pv_to_s(<uint32_t>a)
    return fx_to_int(fx_unbox(a), rm, 24, False, 64, flags)


# ---- from integers

cdef inline uint64_t insn_fcvt_s_w(uint64_t a) noexcept nogil: return FP_BOX | <uint64_t>pv_of_s(<float><int32_t>a)


cdef inline uint64_t insn_fcvt_s_wu(uint64_t a) noexcept nogil:
    return FP_BOX | <uint64_t>pv_of_s(<float><int64_t><uint32_t>a)


cdef inline uint64_t insn_fcvt_s_l(uint64_t a) noexcept nogil: return FP_BOX | <uint64_t>pv_of_s(<float><int64_t>a)


cdef inline uint64_t insn_fcvt_s_lu(uint64_t a) noexcept nogil:
    cdef float half
    if likely(<int64_t>a >= 0):
        return FP_BOX | <uint64_t>pv_of_s(<float><int64_t>a)
    half = <float><int64_t>(a >> 1 | (a & 1))  # by hand: a compiler's own may give -0 or round twice in directed modes
    return FP_BOX | <uint64_t>pv_of_s(half + half)


cdef inline uint64_t fp_from_signed_s(int64_t a, int rm, uint32_t* flags) noexcept nogil:
    if a < 0:
        return FP_BOX | fx_from_int(1, 0 - <uint64_t>a, rm, 24, flags)
    return FP_BOX | fx_from_int(0, <uint64_t>a, rm, 24, flags)


cdef inline uint64_t soft_fcvt_s_w(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_s(<int32_t>a, rm, flags)


cdef inline uint64_t soft_fcvt_s_wu(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_s(<uint32_t>a, rm, flags)


cdef inline uint64_t soft_fcvt_s_l(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return fp_from_signed_s(<int64_t>a, rm, flags)


cdef inline uint64_t soft_fcvt_s_lu(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    return FP_BOX | fx_from_int(0, a, rm, 24, flags)


# ---- moves


cdef inline uint64_t insn_fmv_x_w(uint64_t a) noexcept nogil:
    return <uint64_t><int64_t><int32_t>a  # the bits, boxed or not


cdef inline uint64_t insn_fmv_w_x(uint64_t a) noexcept nogil: return fp_box(a)
