"""Floating point in integers: what F, D, Zfh and Zfa round, in any of the five modes, on any host.

Serves static rounding modes that differ from frm, RMM, hosts without a fused multiply-add, and results at the border of
the normal range on hosts that find tininess before rounding. Unprivileged manual, "F" and "D" extensions; IEEE 754.

Numbers are raw images; `p` is the precision and names the format (11: half, 24: single, 53: double). A finite nonzero
number is taken apart into an exponent e and a 64-bit significand whose top bit is set: value = sig × 2^(e - 63). An
intermediate keeps all its bits or is jammed (bits lost are ORed into the lowest). At least 11 bits remain below the
rounding point, so one rounding at the end is exact.

flags: where the exceptions are ORed in; NULL raises them in the host's sticky flags. No function takes the address of a
local, so a handler into which these are inlined can still end in a jump.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fpenv cimport FP_DZ, FP_NV, FP_NX, FP_OF, FP_UF, RM_RDN, RM_RMM, RM_RNE, RM_RUP, fp_raise


cdef extern from *:
    """
    #ifndef PV_FP_SOFT_H
    #define PV_FP_SOFT_H
    #if !defined(__SIZEOF_INT128__)
    #error "pyvirt's software floating point needs a compiler with 128-bit integers"
    #endif
    typedef unsigned __int128 pv_u128;
    #define FP_BOX 0xffffffff00000000ULL
    #define FP_BOX_H 0xffffffffffff0000ULL
    #define FP_NAN_H 0x7e00ULL
    #define FP_INF_H 0x7c00ULL
    #define FP_NAN_S 0x7fc00000ULL
    #define FP_NAN_D 0x7ff8000000000000ULL
    #define FP_SIGN_S 0x80000000ULL
    #define FP_SIGN_D 0x8000000000000000ULL
    #define FP_MAG_S 0x7fffffffULL
    #define FP_MAG_D 0x7fffffffffffffffULL
    #define FP_INF_S 0x7f800000ULL
    #define FP_INF_D 0x7ff0000000000000ULL
    #define FP_MIN_S 0x00800000ULL
    #define FP_MIN_D 0x0010000000000000ULL
    static inline int pv_clz(uint64_t v) { return __builtin_clzll(v); }
    #endif
    """
    ctypedef unsigned long long pv_u128  # 128 bits in C; Cython only needs to know that it is the widest
    uint64_t FP_BOX  # upper half of a register that holds a single
    uint64_t FP_BOX_H, FP_NAN_H, FP_INF_H
    # canonical NaN, sign, all but sign, infinity, smallest normal
    uint64_t FP_NAN_S, FP_SIGN_S, FP_MAG_S, FP_INF_S, FP_MIN_S
    uint64_t FP_NAN_D, FP_SIGN_D, FP_MAG_D, FP_INF_D, FP_MIN_D
    int pv_clz(uint64_t v) noexcept nogil  # v != 0
    bint likely(bint v) noexcept nogil
    bint unlikely(bint v) noexcept nogil


# ---- formats

cdef inline int fx_bits(int p) noexcept nogil: return 64 if p == 53 else (32 if p == 24 else 16)


cdef inline uint64_t fx_nan(int p) noexcept nogil:
    return FP_NAN_D if p == 53 else (FP_NAN_S if p == 24 else FP_NAN_H)


cdef inline uint64_t fx_inf(int p) noexcept nogil:
    return FP_INF_D if p == 53 else (FP_INF_S if p == 24 else FP_INF_H)


cdef inline uint64_t fx_neg(uint64_t v, int p) noexcept nogil: return v ^ 1ULL << (fx_bits(p) - 1)
cdef inline uint64_t fx_mag(uint64_t v, int p) noexcept nogil: return v & ((1ULL << (fx_bits(p) - 1)) - 1)
cdef inline uint64_t fx_sign(uint64_t v, int p) noexcept nogil: return (v >> (fx_bits(p) - 1)) & 1
cdef inline uint64_t fx_signed(uint64_t m, uint64_t sign, int p) noexcept nogil: return m | sign << (fx_bits(p) - 1)
cdef inline int fx_emin(int p) noexcept nogil: return -1022 if p == 53 else (-126 if p == 24 else -14)
cdef inline bint fx_isnan(uint64_t v, int p) noexcept nogil: return fx_mag(v, p) > fx_inf(p)


cdef inline bint fx_issnan(uint64_t v, int p) noexcept nogil:
    return fx_isnan(v, p) and not (v >> (p - 2)) & 1


cdef inline int fx_exp(uint64_t mag, int p) noexcept nogil:
    """The exponent of a finite nonzero magnitude."""
    cdef int field = <int>(mag >> (p - 1))
    if field != 0:
        return field - 1 + fx_emin(p)
    return fx_emin(p) + (64 - p) - pv_clz(mag)


cdef inline uint64_t fx_sig(uint64_t mag, int p) noexcept nogil:
    """The significand of a finite nonzero magnitude, its top bit at 63."""
    if mag >> (p - 1) != 0:
        return FP_SIGN_D | (mag << (64 - p))
    return mag << pv_clz(mag)


cdef inline uint64_t fx_unbox(uint64_t a) noexcept nogil:
    """The single in a register; one that is not boxed counts as the canonical NaN."""
    return a & 0xffffffffULL if likely(a >= FP_BOX) else FP_NAN_S


cdef inline uint64_t fx_unbox_h(uint64_t a) noexcept nogil: return a & 0xffff if likely(a >= FP_BOX_H) else FP_NAN_H


# ---- ends of an operation

cdef inline void fx_flag(uint32_t f, uint32_t* flags) noexcept nogil:
    if flags != NULL:
        flags[0] |= f
    else:
        fp_raise(f)


cdef inline uint64_t fx_invalid(int p, uint32_t* flags) noexcept nogil:
    fx_flag(FP_NV, flags)
    return fx_nan(p)


cdef inline uint64_t fx_up(uint64_t sign, uint64_t odd, uint64_t rest, uint64_t half, int rm) noexcept nogil:
    """Whether to add one to the kept part, for the part cut off."""
    if rm == RM_RNE:
        return rest > half or (rest == half and odd != 0)
    if rm == RM_RMM:
        return rest >= half
    if rm == RM_RDN:
        return sign != 0 and rest != 0
    if rm == RM_RUP:
        return sign == 0 and rest != 0
    return 0


cdef inline uint64_t fx_round(uint64_t sign, int e, uint64_t sig, int rm, int p, uint32_t* flags) noexcept nogil:
    """Round a jammed significand with its top bit at 63 to a number of the format; tininess is found after rounding."""
    cdef int cut = 64 - p, d
    cdef uint64_t half = 1ULL << (cut - 1), mask = (1ULL << cut) - 1, q, rest, bits
    cdef uint32_t f = 0
    cdef bint tiny = False
    if e < fx_emin(p):
        # Not tiny if the result, had the exponent no lower end, would round up to the smallest normal number.
        q = sig >> cut
        tiny = e < fx_emin(p) - 1 or q + fx_up(sign, q & 1, sig & mask, half, rm) != 1ULL << p
        d = fx_emin(p) - e
        sig = (sig >> d) | (sig << (64 - d) != 0) if d < 64 else 1
        e = fx_emin(p)
    rest = sig & mask
    q = sig >> cut
    if rest != 0:
        f = FP_NX | FP_UF if tiny else FP_NX
        q += fx_up(sign, q & 1, rest, half, rm)
    # The leading one of q makes a normal's exponent field; a carry makes its next.
    bits = (<uint64_t>(e - fx_emin(p)) << (p - 1)) + q
    if bits >= fx_inf(p):
        f = FP_OF | FP_NX
        bits = fx_inf(p)
        if not (rm == RM_RNE or rm == RM_RMM or rm == <int>(RM_RDN if sign else RM_RUP)):
            bits -= 1
    if f:
        fx_flag(f, flags)
    return fx_signed(bits, sign, p)


# ---- arithmetic

cdef inline uint64_t fx_sum(uint64_t sa, int ea, pv_u128 xa, uint64_t sb, int eb, pv_u128 xb, int rm, int p,
                            uint32_t* flags) noexcept nogil:
    """Add two numbers x × 2^(e - 126). Each x has its top bit at 126 and low zeros: room for the jammed bit."""
    cdef uint64_t s, hi, lo
    cdef int e, d
    cdef pv_u128 x
    if ea < eb or (ea == eb and xa < xb):
        s = sa; sa = sb; sb = s
        e = ea; ea = eb; eb = e
        x = xa; xa = xb; xb = x
    d = ea - eb
    if d > 126:
        xb = 1
    elif d > 0:
        x = xb >> d
        xb = x | (x << d != xb)
    if sa == sb:
        x = xa + xb
    else:
        x = xa - xb
        if x == 0:
            return fx_signed(0, rm == RM_RDN, p)
    hi = <uint64_t>(x >> 64)
    lo = <uint64_t>x
    d = pv_clz(hi) if hi != 0 else 64 + pv_clz(lo)
    x = x << d
    hi = <uint64_t>(x >> 64)
    lo = <uint64_t>x
    return fx_round(sa, ea + 1 - d, hi | (lo != 0), rm, p, flags)


cdef inline uint64_t fx_add(uint64_t a, uint64_t b, int rm, int p, uint32_t* flags) noexcept nogil:
    cdef uint64_t ma = fx_mag(a, p), mb = fx_mag(b, p), sa = fx_sign(a, p), sb = fx_sign(b, p)
    if ma >= fx_inf(p) or mb >= fx_inf(p):
        if ma > fx_inf(p) or mb > fx_inf(p):
            if fx_issnan(a, p) or fx_issnan(b, p):
                fx_flag(FP_NV, flags)
            return fx_nan(p)
        if ma == mb and sa != sb:
            return fx_invalid(p, flags)
        return a if ma == fx_inf(p) else b
    if ma == 0 or mb == 0:
        if ma != mb:
            return a if mb == 0 else b
        return a if sa == sb else fx_signed(0, rm == RM_RDN, p)
    return fx_sum(sa, fx_exp(ma, p), <pv_u128>fx_sig(ma, p) << 63,
                  sb, fx_exp(mb, p), <pv_u128>fx_sig(mb, p) << 63, rm, p, flags)


cdef inline uint64_t fx_fma(uint64_t a, uint64_t b, uint64_t c, int rm, int p, uint32_t* flags) noexcept nogil:
    """a × b + c, rounded once. inf × 0 is invalid even if c is a quiet NaN."""
    cdef uint64_t ma = fx_mag(a, p), mb = fx_mag(b, p), mc = fx_mag(c, p)
    cdef uint64_t s = fx_sign(a, p) ^ fx_sign(b, p), sc = fx_sign(c, p)
    cdef pv_u128 x
    cdef int e
    if ma >= fx_inf(p) or mb >= fx_inf(p) or mc >= fx_inf(p):
        if fx_issnan(a, p) or fx_issnan(b, p) or fx_issnan(c, p):
            return fx_invalid(p, flags)
        if (ma == fx_inf(p) and mb == 0) or (mb == fx_inf(p) and ma == 0):
            return fx_invalid(p, flags)
        if ma > fx_inf(p) or mb > fx_inf(p) or mc > fx_inf(p):
            return fx_nan(p)
        if mc == fx_inf(p):
            if (ma == fx_inf(p) or mb == fx_inf(p)) and s != sc:
                return fx_invalid(p, flags)
            return c
        return fx_signed(fx_inf(p), s, p)
    if ma == 0 or mb == 0:
        if mc != 0:
            return c
        return c if s == sc else fx_signed(0, rm == RM_RDN, p)
    e = fx_exp(ma, p) + fx_exp(mb, p) + 1
    x = <pv_u128>fx_sig(ma, p) * <pv_u128>fx_sig(mb, p) >> 1  # exact: the low bits are zero
    if x >> 126 == 0:
        x = x << 1
        e -= 1
    if mc == 0:
        return fx_round(s, e, <uint64_t>(x >> 63) | (<uint64_t>(x << 1) != 0), rm, p, flags)
    return fx_sum(s, e, x, sc, fx_exp(mc, p), <pv_u128>fx_sig(mc, p) << 63, rm, p, flags)


cdef inline uint64_t fx_mul(uint64_t a, uint64_t b, int rm, int p, uint32_t* flags) noexcept nogil:
    # A zero of the product's sign neither changes the product nor the sign of a zero.
    return fx_fma(a, b, fx_signed(0, fx_sign(a, p) ^ fx_sign(b, p), p), rm, p, flags)


cdef inline uint64_t fx_div(uint64_t a, uint64_t b, int rm, int p, uint32_t* flags) noexcept nogil:
    cdef uint64_t ma = fx_mag(a, p), mb = fx_mag(b, p), s = fx_sign(a, p) ^ fx_sign(b, p), q, sb
    cdef pv_u128 x
    cdef int e
    if ma > fx_inf(p) or mb > fx_inf(p):
        if fx_issnan(a, p) or fx_issnan(b, p):
            fx_flag(FP_NV, flags)
        return fx_nan(p)
    if ma == mb and (ma == 0 or ma == fx_inf(p)):
        return fx_invalid(p, flags)
    if ma == fx_inf(p):
        return fx_signed(ma, s, p)
    if mb == fx_inf(p) or ma == 0:
        return fx_signed(0, s, p)
    if mb == 0:
        fx_flag(FP_DZ, flags)
        return fx_signed(fx_inf(p), s, p)
    e = fx_exp(ma, p) - fx_exp(mb, p)
    sb = fx_sig(mb, p)
    x = <pv_u128>fx_sig(ma, p) << 63
    q = <uint64_t>(x / <pv_u128>sb)
    q |= <pv_u128>q * <pv_u128>sb != x
    if not q >> 63:
        q <<= 1
        e -= 1
    return fx_round(s, e, q, rm, p, flags)


cdef inline uint64_t fx_sqrt(uint64_t a, int rm, int p, uint32_t* flags) noexcept nogil:
    cdef uint64_t ma = fx_mag(a, p), root = 0
    cdef pv_u128 x, rest = 0, t
    cdef int e, _
    if ma > fx_inf(p):
        return fx_invalid(p, flags) if fx_issnan(a, p) else fx_nan(p)
    if ma == 0:
        return a
    if fx_sign(a, p):
        return fx_invalid(p, flags)
    if ma == fx_inf(p):
        return a
    e = fx_exp(ma, p)
    x = <pv_u128>fx_sig(ma, p) << (63 + (e & 1))
    for _ in range(64):  # the 64-bit root digit by digit, two bits of the radicand each
        rest = rest << 2 | x >> 126
        x = x << 2
        t = <pv_u128>root << 2 | 1
        root <<= 1
        if rest >= t:
            rest -= t
            root |= 1
    return fx_round(0, e >> 1, root | (rest != 0), rm, p, flags)


# ---- conversions

cdef inline uint64_t fx_to_int(uint64_t a, int rm, int p, bint signed, int width, uint32_t* flags) noexcept nogil:
    """An x register: saturated with NV if out of range (NaN counts as +inf), 32-bit results sign-extended."""
    cdef uint64_t mag = fx_mag(a, p), sign = fx_sign(a, p), n = 0, rest = 0, limit
    cdef int e, d
    cdef bint fits = mag < fx_inf(p)
    if mag > fx_inf(p):
        sign = 0
    if signed:
        limit = (1ULL << (width - 1)) - 1 + sign
    else:
        limit = 0 if sign else ~0ULL >> (64 - width)
    if fits and mag != 0:
        e = fx_exp(mag, p)
        d = 63 - e
        if d < 0:
            fits = False
        elif d == 0:
            n = fx_sig(mag, p)
        elif d < 64:
            n = fx_sig(mag, p) >> d
            rest = fx_sig(mag, p) << (64 - d)
        else:
            rest = fx_sig(mag, p) if d == 64 else 1
        n += fx_up(sign, n & 1, rest, FP_SIGN_D, rm)
    if not fits or n > limit:
        fx_flag(FP_NV, flags)
        n = limit
    elif rest != 0:
        fx_flag(FP_NX, flags)
    if sign:
        n = 0 - n
    return <uint64_t><int64_t><int32_t>n if width == 32 else n


cdef inline uint64_t fx_from_int(uint64_t sign, uint64_t mag, int rm, int p, uint32_t* flags) noexcept nogil:
    cdef int d
    if mag == 0:
        return 0
    d = pv_clz(mag)
    return fx_round(sign, 63 - d, mag << d, rm, p, flags)


cdef inline uint64_t fx_convert(uint64_t a, int rm, int source, int p, uint32_t* flags) noexcept nogil:
    """A number of one format in another."""
    cdef uint64_t mag = fx_mag(a, source), sign = fx_sign(a, source)
    if mag > fx_inf(source):
        return fx_invalid(p, flags) if fx_issnan(a, source) else fx_nan(p)
    if mag == fx_inf(source) or mag == 0:
        return fx_signed(fx_inf(p) if mag else 0, sign, p)
    return fx_round(sign, fx_exp(mag, source), fx_sig(mag, source), rm, p, flags)


cdef inline uint64_t fx_integral(uint64_t a, int rm, int p, bint inexact, uint32_t* flags) noexcept nogil:
    """A number rounded to an integer of its own format; NX only if `inexact` asks for it."""
    cdef uint64_t mag = fx_mag(a, p), sign = fx_sign(a, p), n = 0, rest = 1
    cdef int e
    if mag > fx_inf(p):
        return fx_invalid(p, flags) if fx_issnan(a, p) else fx_nan(p)
    if mag == 0 or mag == fx_inf(p):
        return a
    e = fx_exp(mag, p)
    if e >= p - 1:
        return a
    if e >= 0:
        n = fx_sig(mag, p) >> (63 - e)
        rest = fx_sig(mag, p) << (e + 1)
    elif e == -1:
        rest = fx_sig(mag, p)
    n += fx_up(sign, n & 1, rest, FP_SIGN_D, rm)
    if rest != 0 and inexact:
        fx_flag(FP_NX, flags)
    return fx_signed(0, sign, p) if n == 0 else fx_from_int(sign, n, rm, p, flags)


# ---- order, and what has no rounding mode; exceptions go to the host's flags

cdef inline int64_t fx_rank(uint64_t v, int p) noexcept nogil:
    """Integers in the order of the numbers, -0 before +0."""
    cdef int64_t m = <int64_t>fx_mag(v, p)
    return -m - 1 if fx_sign(v, p) else m


cdef inline bint fx_zeros(uint64_t a, uint64_t b, int p) noexcept nogil: return fx_mag(a, p) == 0 and fx_mag(b, p) == 0


cdef inline bint fx_unordered(uint64_t a, uint64_t b, int p, bint quiet) noexcept nogil:
    """Whether one is a NaN; NV for a signalling one, and unless `quiet` for any."""
    if not (fx_isnan(a, p) or fx_isnan(b, p)):
        return False
    if not quiet or fx_issnan(a, p) or fx_issnan(b, p):
        fp_raise(FP_NV)
    return True


cdef inline uint64_t fx_eq(uint64_t a, uint64_t b, int p) noexcept nogil:
    return not fx_unordered(a, b, p, True) and (a == b or fx_zeros(a, b, p))


cdef inline uint64_t fx_lt(uint64_t a, uint64_t b, int p, bint quiet) noexcept nogil:
    return not fx_unordered(a, b, p, quiet) and fx_rank(a, p) < fx_rank(b, p) and not fx_zeros(a, b, p)


cdef inline uint64_t fx_le(uint64_t a, uint64_t b, int p, bint quiet) noexcept nogil:
    return not fx_unordered(a, b, p, quiet) and (fx_rank(a, p) <= fx_rank(b, p) or fx_zeros(a, b, p))


cdef inline uint64_t fx_extreme(uint64_t a, uint64_t b, int p, bint largest, bint numbers) noexcept nogil:
    """Minimum or maximum; with `numbers` a number wins over a NaN, else the NaN does."""
    if fx_unordered(a, b, p, True):
        if not numbers or (fx_isnan(a, p) and fx_isnan(b, p)):
            return fx_nan(p)
        return b if fx_isnan(a, p) else a
    return a if (fx_rank(a, p) > fx_rank(b, p)) == largest else b


cdef inline uint64_t fx_class(uint64_t v, int p) noexcept nogil:
    cdef uint64_t mag = fx_mag(v, p)
    if mag > fx_inf(p):
        return 1 << 8 if fx_issnan(v, p) else 1 << 9
    if mag == fx_inf(p):
        return 1 << 0 if v != mag else 1 << 7
    if mag >> (p - 1) != 0:
        return 1 << 1 if v != mag else 1 << 6
    if mag != 0:
        return 1 << 2 if v != mag else 1 << 5
    return 1 << 3 if v != mag else 1 << 4
