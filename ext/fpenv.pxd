"""The host's floating-point environment, lent to the guest while a slice runs.

The host's sticky exception flags are the guest's fflags: `fp_enter` clears them and sets the rounding mode to frm,
`fp_harvest` reads them, `fp_leave` gives the caller's environment back. Owns the access to MXCSR (x86-64) and FPCR/FPSR
(arm64), with <fenv.h> elsewhere, the casts between register images and C floats, and the host operations that C does
not name. Unprivileged manual, "F" extension, "Floating-Point Control and Status Register".

    saved = fp_enter(h.frm)             # before the first f instruction of a slice
    ... handlers ...
    h.fflags |= fp_harvest()            # a guest read of fcsr; before each call into Python; at the end
    fp_clear()                          # a guest write of fcsr: the bits written then live in h.fflags alone
    fp_leave(saved)                     # before each call into Python; at the end

Every access is a compiler barrier. That orders it against the instruction bodies, which take their operands from memory
the compiler cannot follow and store their results there; one whose result is stored nowhere has no such order and may
vanish.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef enum fp_rm_t:
    RM_RNE = 0
    RM_RTZ = 1
    RM_RDN = 2
    RM_RUP = 3
    RM_RMM = 4  # no host has it: rounds in software
    RM_DYN = 7


cdef enum fp_flag_t:
    FP_NX = 1
    FP_UF = 2
    FP_OF = 4
    FP_DZ = 8
    FP_NV = 16


cdef extern from *:
    """
    #ifndef PV_FPENV_H
    #define PV_FPENV_H
    #include <float.h>
    #include <stdint.h>
    #include <string.h>

    #if FLT_EVAL_METHOD != 0
    #error "pyvirt needs float arithmetic in float and double in double (FLT_EVAL_METHOD == 0)"
    #endif

    #if defined(_MSC_VER)
    #include <intrin.h>
    #define PV_BARRIER() _ReadWriteBarrier()
    #else
    #define PV_BARRIER() __asm__ volatile("" ::: "memory")
    #endif

    static inline double pv_to_d(uint64_t v) { double d; memcpy(&d, &v, 8); return d; }
    static inline uint64_t pv_of_d(double d) { uint64_t v; memcpy(&v, &d, 8); return v; }
    static inline float pv_to_s(uint32_t v) { float f; memcpy(&f, &v, 4); return f; }
    static inline uint32_t pv_of_s(float f) { uint32_t v; memcpy(&v, &f, 4); return v; }
    /* A constant the compiler can't see through. If it saw an operand to be NaN, it would forget what the other one,
       signalling, raises; if it saw a result to be, it would select by cmov, which lengthens every chain of results. */
    #if defined(_MSC_VER)
    static inline uint64_t pv_hidden(uint64_t v) { volatile uint64_t t = v; return t; }
    #else
    static inline uint64_t pv_hidden(uint64_t v) { __asm__ volatile("" : "+r"(v)); return v; }
    #endif

    #if defined(__x86_64__) || defined(_M_X64)
    /* ---- x86-64. MXCSR: flags IE DE ZE OE UE PE in bits 0-5, masks in 7-12, rounding in 13-14 (RN, RD, RU, RZ). */
    #include <emmintrin.h>
    #define PV_TINY_BEFORE 0
    #define PV_MXCSR_FLAGS 0x3fu
    static inline uint32_t pv_csr_get(void) { PV_BARRIER(); uint32_t c = _mm_getcsr(); PV_BARRIER(); return c; }
    static inline void pv_csr_set(uint32_t c) { PV_BARRIER(); _mm_setcsr(c); PV_BARRIER(); }
    /* two bits per frm: RNE 0, RTZ 3, RDN 1, RUP 2; all others 0 */
    static inline uint32_t pv_rc(uint32_t frm) { return ((0x9cu >> (2 * (frm & 7))) & 3) << 13; }
    static inline uint64_t fp_enter(uint32_t frm) {
        uint32_t saved = pv_csr_get();
        pv_csr_set(0x1f80 | pv_rc(frm));
        return saved;
    }
    static inline void fp_leave(uint64_t saved) { pv_csr_set((uint32_t)saved); }
    static inline void fp_set_rounding(uint32_t frm) { pv_csr_set((pv_csr_get() & ~0x6000u) | pv_rc(frm)); }
    static inline uint32_t fp_rounding(void) { return (0x78u >> ((pv_csr_get() >> 12) & 6)) & 3; }
    static inline void fp_clear(void) { pv_csr_set(pv_csr_get() & ~PV_MXCSR_FLAGS); }
    static inline uint32_t fp_harvest(void) {
        uint32_t c = pv_csr_get();
        return ((c >> 5) & 1) | ((c >> 3) & 2) | ((c >> 1) & 4) | ((c << 1) & 8) | ((c << 4) & 16);
    }
    static inline void fp_raise(uint32_t f) {
        uint32_t c = pv_csr_get();
        uint32_t w = c | ((f & 1) << 5) | ((f & 2) << 3) | ((f & 4) << 1) | ((f & 8) >> 1) | ((f & 16) >> 4);
        if (w != c) pv_csr_set(w);
    }
    static inline uint64_t fp_mark(void) { return 0; }
    static inline uint64_t fp_tie(uint64_t v, uint64_t mark) { (void)mark; return v; }
    static inline void fp_rewind(uint64_t mark) { (void)mark; }

    static inline int64_t pv_int_d(double d) { return _mm_cvtsd_si64(_mm_set_sd(d)); }
    static inline int64_t pv_int_s(float f) { return _mm_cvtss_si64(_mm_set_ss(f)); }
    static inline double pv_sqrt_d(double d) { return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(d))); }
    static inline float pv_sqrt_s(float f) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(f))); }
    #if defined(__GNUC__) || defined(__clang__)
    /* comisd by name: a compiler may choose the quiet ucomisd for `<`, and gcc 12's _mm_comilt_sd is true for NaN.
       It compares b with a: "above" is b > a, and false for NaN. */
    #define PV_COMI(name, type, insn, cc) \
        static inline int name(type a, type b) { int r; __asm__(insn " %1, %2" : cc(r) : "xm"(a), "x"(b)); return r; }
    PV_COMI(pv_lt_d, double, "comisd", "=@cca")
    PV_COMI(pv_le_d, double, "comisd", "=@ccae")
    PV_COMI(pv_lt_s, float, "comiss", "=@cca")
    PV_COMI(pv_le_s, float, "comiss", "=@ccae")
    /* By hand, so that no -mfma is needed; libgcc looks at CPUID and XCR0 once, before main. */
    static inline int pv_has_fma(void) { return __builtin_cpu_supports("fma") != 0; }
    static inline double pv_fma_d(double a, double b, double c) {
        __asm__("vfmadd213sd %2, %1, %0" : "+x"(a) : "x"(b), "xm"(c)); return a;
    }
    static inline float pv_fma_s(float a, float b, float c) {
        __asm__("vfmadd213ss %2, %1, %0" : "+x"(a) : "x"(b), "xm"(c)); return a;
    }
    #else
    #define PV_COMPARE_IN_INTEGERS
    static inline int pv_has_fma(void) { return 0; }
    static inline double pv_fma_d(double a, double b, double c) { return a * b + c; }
    static inline float pv_fma_s(float a, float b, float c) { return a * b + c; }
    #endif
    #elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
    /* ---- arm64. FPCR: rounding in 22-23 (RN, RP, RM, RZ), no traps, DN and FZ off; FPSR: IOC DZC OFC UFC IXC. */
    #define PV_TINY_BEFORE 1
    #define PV_SYSREG(reg) \
        static inline uint64_t pv_##reg##_get(void) { \
            uint64_t v; __asm__ volatile("mrs %0, " #reg : "=r"(v) :: "memory"); return v; \
        } \
        static inline void pv_##reg##_set(uint64_t v) { __asm__ volatile("msr " #reg ", %0" :: "r"(v) : "memory"); }
    PV_SYSREG(fpcr)
    PV_SYSREG(fpsr)
    /* two bits per frm: RNE 0, RTZ 3, RDN 2, RUP 1 */
    static inline uint64_t pv_rc(uint32_t frm) { return (uint64_t)((0x6cu >> (2 * (frm & 7))) & 3) << 22; }
    static inline uint64_t fp_enter(uint32_t frm) {
        uint64_t saved = (pv_fpsr_get() << 32) | (pv_fpcr_get() & 0xffffffffu);
        pv_fpcr_set(pv_rc(frm));
        pv_fpsr_set(0);
        return saved;
    }
    static inline void fp_leave(uint64_t saved) { pv_fpcr_set(saved & 0xffffffffu); pv_fpsr_set(saved >> 32); }
    static inline void fp_set_rounding(uint32_t frm) { pv_fpcr_set((pv_fpcr_get() & ~0xc00000ULL) | pv_rc(frm)); }
    static inline uint32_t fp_rounding(void) { return (0x6cu >> ((pv_fpcr_get() >> 21) & 6)) & 3; }
    static inline void fp_clear(void) { pv_fpsr_set(pv_fpsr_get() & ~0x9fULL); }
    static inline uint32_t fp_harvest(void) {
        uint32_t c = (uint32_t)pv_fpsr_get();
        return ((c >> 4) & 1) | ((c >> 2) & 2) | (c & 4) | ((c << 2) & 8) | ((c << 4) & 16);
    }
    static inline void fp_raise(uint32_t f) {
        pv_fpsr_set(pv_fpsr_get() | (f & 1) << 4 | (f & 2) << 2 | (f & 4) | (f & 8) >> 2 | (f & 16) >> 4);
    }
    static inline uint64_t fp_mark(void) { return pv_fpsr_get(); }
    static inline uint64_t fp_tie(uint64_t v, uint64_t mark) {
        __asm__ volatile("" : "+r"(v) : "r"(mark));
        return v;
    }
    static inline void fp_rewind(uint64_t mark) { pv_fpsr_set(mark); }
    #else
    /* ---- any other host: <fenv.h>. Its tininess is not known, so results at the border are redone in software. */
    #include <fenv.h>
    #define PV_TINY_BEFORE 1
    static inline int pv_rc(uint32_t frm) {
        return frm == 1 ? FE_TOWARDZERO : frm == 2 ? FE_DOWNWARD : frm == 3 ? FE_UPWARD : FE_TONEAREST;
    }
    static inline uint32_t fp_rounding(void) {
        PV_BARRIER();
        int r = fegetround();
        return r == FE_TOWARDZERO ? 1 : r == FE_DOWNWARD ? 2 : r == FE_UPWARD ? 3 : 0;
    }
    static inline void fp_clear(void) { PV_BARRIER(); feclearexcept(FE_ALL_EXCEPT); PV_BARRIER(); }
    static inline void fp_set_rounding(uint32_t frm) { PV_BARRIER(); fesetround(pv_rc(frm)); PV_BARRIER(); }
    static inline uint32_t fp_harvest(void) {
        PV_BARRIER();
        int c = fetestexcept(FE_ALL_EXCEPT);
        PV_BARRIER();
        return (c & FE_INEXACT ? 1 : 0) | (c & FE_UNDERFLOW ? 2 : 0) | (c & FE_OVERFLOW ? 4 : 0)
            | (c & FE_DIVBYZERO ? 8 : 0) | (c & FE_INVALID ? 16 : 0);
    }
    static inline void fp_raise(uint32_t f) {
        PV_BARRIER();
        feraiseexcept((f & 2 ? FE_UNDERFLOW : 0) | (f & 4 ? FE_OVERFLOW : 0) | (f & 8 ? FE_DIVBYZERO : 0)
            | (f & 16 ? FE_INVALID : 0) | (f & 1 ? FE_INEXACT : 0));
        PV_BARRIER();
    }
    static inline uint64_t fp_enter(uint32_t frm) {
        uint64_t saved = ((uint64_t)fp_harvest() << 32) | fp_rounding();
        fp_set_rounding(frm);
        fp_clear();
        return saved;
    }
    static inline void fp_leave(uint64_t saved) {
        fp_set_rounding((uint32_t)saved);
        fp_clear();
        fp_raise((uint32_t)(saved >> 32));
    }
    static inline uint64_t fp_mark(void) { return fp_harvest(); }
    static inline uint64_t fp_tie(uint64_t v, uint64_t mark) { volatile uint64_t t = v; (void)mark; return t; }
    static inline void fp_rewind(uint64_t mark) { fp_clear(); fp_raise((uint32_t)mark); }
    #endif

    #if !(defined(__x86_64__) || defined(_M_X64))
    #include <math.h>
    static inline int64_t pv_int_d(double d) { return llrint(d); }
    static inline int64_t pv_int_s(float f) { return llrintf(f); }
    static inline double pv_sqrt_d(double d) { return sqrt(d); }
    static inline float pv_sqrt_s(float f) { return sqrtf(f); }
    #define PV_COMPARE_IN_INTEGERS
    /* Only a fused multiply-add in hardware: a libm's emulation may miss a flag or ignore the rounding mode. */
    #if defined(FP_FAST_FMA) && defined(FP_FAST_FMAF)
    static inline int pv_has_fma(void) { return 1; }
    #else
    static inline int pv_has_fma(void) { return 0; }
    #endif
    static inline double pv_fma_d(double a, double b, double c) { return fma(a, b, c); }
    static inline float pv_fma_s(float a, float b, float c) { return fmaf(a, b, c); }
    #endif

    #if defined(PV_COMPARE_IN_INTEGERS)
    /* Both orders of a NaN are invalid; said in integers, since compilers differ in what `<` raises. */
    static inline int pv_nan_pair_d(uint64_t a, uint64_t b) {
        if ((a << 1) <= 0xffe0000000000000ULL && (b << 1) <= 0xffe0000000000000ULL) return 0;
        fp_raise(16);
        return 1;
    }
    static inline int pv_nan_pair_s(uint32_t a, uint32_t b) {
        if ((a << 1) <= 0xff000000u && (b << 1) <= 0xff000000u) return 0;
        fp_raise(16);
        return 1;
    }
    static inline int pv_lt_d(double a, double b) { return !pv_nan_pair_d(pv_of_d(a), pv_of_d(b)) && a < b; }
    static inline int pv_le_d(double a, double b) { return !pv_nan_pair_d(pv_of_d(a), pv_of_d(b)) && a <= b; }
    static inline int pv_lt_s(float a, float b) { return !pv_nan_pair_s(pv_of_s(a), pv_of_s(b)) && a < b; }
    static inline int pv_le_s(float a, float b) { return !pv_nan_pair_s(pv_of_s(a), pv_of_s(b)) && a <= b; }
    #endif
    #endif
    """
    bint PV_TINY_BEFORE  # whether this host may raise underflow for results that round up to the smallest normal number
    double pv_to_d(uint64_t v) noexcept nogil
    uint64_t pv_of_d(double d) noexcept nogil
    float pv_to_s(uint32_t v) noexcept nogil
    uint32_t pv_of_s(float f) noexcept nogil
    uint64_t pv_hidden(uint64_t v) noexcept nogil

    int64_t pv_int_d(double d) noexcept nogil  # rounds as the host does; the value must fit
    int64_t pv_int_s(float f) noexcept nogil
    double pv_sqrt_d(double d) noexcept nogil
    float pv_sqrt_s(float f) noexcept nogil
    bint pv_lt_d(double a, double b) noexcept nogil  # signalling: NV for every NaN
    bint pv_le_d(double a, double b) noexcept nogil
    bint pv_lt_s(float a, float b) noexcept nogil
    bint pv_le_s(float a, float b) noexcept nogil
    bint pv_has_fma() noexcept nogil
    double pv_fma_d(double a, double b, double c) noexcept nogil  # only if pv_has_fma()
    float pv_fma_s(float a, float b, float c) noexcept nogil

    uint64_t fp_enter(uint32_t frm) noexcept nogil  # the caller's environment, for fp_leave; RMM and reserved set RNE
    void fp_leave(uint64_t saved) noexcept nogil
    void fp_set_rounding(uint32_t frm) noexcept nogil  # keeps the flags
    uint32_t fp_rounding() noexcept nogil  # what the host does now: RM_RNE ... RM_RUP
    uint32_t fp_harvest() noexcept nogil  # fflags bits raised since fp_enter or fp_clear; clears nothing
    void fp_clear() noexcept nogil
    void fp_raise(uint32_t flags) noexcept nogil  # set sticky host flags; never clears one
    uint64_t fp_mark() noexcept nogil  # the flags as they are, where PV_TINY_BEFORE; else 0 at no cost
    uint64_t fp_tie(uint64_t v, uint64_t mark) noexcept nogil  # v, in a way that keeps its users after the mark
    void fp_rewind(uint64_t mark) noexcept nogil  # back to the flags of the mark
