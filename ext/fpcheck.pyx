"""Every F, D, Zfh and Zfa body under its instruction's name, for tests (pyvirt._fpcheck); nothing else imports it.

Owns no arithmetic: it sets up the environment the handlers run in, calls one body, and tells the flags.
"""
from libc.stdint cimport uint32_t, uint64_t

from fpenv cimport fp_clear, fp_enter, fp_harvest, fp_leave, fp_raise, fp_rounding, fp_set_rounding, pv_has_fma
from insn_d cimport *
from insn_f cimport *
from insn_zfa cimport *
from insn_zfh cimport *


ctypedef uint64_t (*one_t)(uint64_t) noexcept nogil
ctypedef uint64_t (*two_t)(uint64_t, uint64_t) noexcept nogil
ctypedef uint64_t (*three_t)(uint64_t, uint64_t, uint64_t) noexcept nogil
ctypedef uint64_t (*soft_one_t)(uint64_t, int, uint32_t*) noexcept nogil
ctypedef uint64_t (*soft_two_t)(uint64_t, uint64_t, int, uint32_t*) noexcept nogil
ctypedef uint64_t (*soft_three_t)(uint64_t, uint64_t, uint64_t, int, uint32_t*) noexcept nogil

ctypedef struct body_t:
    int operands
    one_t one
    two_t two
    three_t three
    soft_one_t soft_one
    soft_two_t soft_two
    soft_three_t soft_three

cdef body_t[128] BODIES
_INDEX = {}  # instruction name -> index into BODIES


cdef body_t* _new(str name, int operands) except NULL:
    if len(_INDEX) == 128 or name in _INDEX:
        raise ValueError(f"body {name!r} does not fit into the table or is there twice")
    cdef body_t* body = &BODIES[len(_INDEX)]
    _INDEX[name] = len(_INDEX)
    body.operands = operands
    return body


cdef int _one(str name, one_t native, soft_one_t soft) except -1:
    cdef body_t* body = _new(name, 1)
    body.one, body.soft_one = native, soft
    return 0


cdef int _two(str name, two_t native, soft_two_t soft) except -1:
    cdef body_t* body = _new(name, 2)
    body.two, body.soft_two = native, soft
    return 0


cdef int _three(str name, three_t native, soft_three_t soft) except -1:
    cdef body_t* body = _new(name, 3)
    body.three, body.soft_three = native, soft
    return 0


_two("fadd.s", insn_fadd_s, soft_fadd_s)
_two("fsub.s", insn_fsub_s, soft_fsub_s)
_two("fmul.s", insn_fmul_s, soft_fmul_s)
_two("fdiv.s", insn_fdiv_s, soft_fdiv_s)
_one("fsqrt.s", insn_fsqrt_s, soft_fsqrt_s)
_three("fmadd.s", insn_fmadd_s, soft_fmadd_s)
_three("fmsub.s", insn_fmsub_s, soft_fmsub_s)
_three("fnmsub.s", insn_fnmsub_s, soft_fnmsub_s)
_three("fnmadd.s", insn_fnmadd_s, soft_fnmadd_s)
_two("fsgnj.s", insn_fsgnj_s, NULL)
_two("fsgnjn.s", insn_fsgnjn_s, NULL)
_two("fsgnjx.s", insn_fsgnjx_s, NULL)
_two("fmin.s", insn_fmin_s, NULL)
_two("fmax.s", insn_fmax_s, NULL)
_two("feq.s", insn_feq_s, NULL)
_two("flt.s", insn_flt_s, NULL)
_two("fle.s", insn_fle_s, NULL)
_one("fclass.s", insn_fclass_s, NULL)
_one("fcvt.w.s", insn_fcvt_w_s, soft_fcvt_w_s)
_one("fcvt.wu.s", insn_fcvt_wu_s, soft_fcvt_wu_s)
_one("fcvt.l.s", insn_fcvt_l_s, soft_fcvt_l_s)
_one("fcvt.lu.s", insn_fcvt_lu_s, soft_fcvt_lu_s)
_one("fcvt.s.w", insn_fcvt_s_w, soft_fcvt_s_w)
_one("fcvt.s.wu", insn_fcvt_s_wu, soft_fcvt_s_wu)
_one("fcvt.s.l", insn_fcvt_s_l, soft_fcvt_s_l)
_one("fcvt.s.lu", insn_fcvt_s_lu, soft_fcvt_s_lu)
_two("fadd.d", insn_fadd_d, soft_fadd_d)
_two("fsub.d", insn_fsub_d, soft_fsub_d)
_two("fmul.d", insn_fmul_d, soft_fmul_d)
_two("fdiv.d", insn_fdiv_d, soft_fdiv_d)
_one("fsqrt.d", insn_fsqrt_d, soft_fsqrt_d)
_three("fmadd.d", insn_fmadd_d, soft_fmadd_d)
_three("fmsub.d", insn_fmsub_d, soft_fmsub_d)
_three("fnmsub.d", insn_fnmsub_d, soft_fnmsub_d)
_three("fnmadd.d", insn_fnmadd_d, soft_fnmadd_d)
_two("fsgnj.d", insn_fsgnj_d, NULL)
_two("fsgnjn.d", insn_fsgnjn_d, NULL)
_two("fsgnjx.d", insn_fsgnjx_d, NULL)
_two("fmin.d", insn_fmin_d, NULL)
_two("fmax.d", insn_fmax_d, NULL)
_two("feq.d", insn_feq_d, NULL)
_two("flt.d", insn_flt_d, NULL)
_two("fle.d", insn_fle_d, NULL)
_one("fclass.d", insn_fclass_d, NULL)
_one("fcvt.w.d", insn_fcvt_w_d, soft_fcvt_w_d)
_one("fcvt.wu.d", insn_fcvt_wu_d, soft_fcvt_wu_d)
_one("fcvt.l.d", insn_fcvt_l_d, soft_fcvt_l_d)
_one("fcvt.lu.d", insn_fcvt_lu_d, soft_fcvt_lu_d)
_one("fcvt.d.w", insn_fcvt_d_w, soft_fcvt_d_w)
_one("fcvt.d.wu", insn_fcvt_d_wu, soft_fcvt_d_wu)
_one("fcvt.d.l", insn_fcvt_d_l, soft_fcvt_d_l)
_one("fcvt.d.lu", insn_fcvt_d_lu, soft_fcvt_d_lu)
_one("fcvt.s.d", insn_fcvt_s_d, soft_fcvt_s_d)
_one("fcvt.d.s", insn_fcvt_d_s, soft_fcvt_d_s)
_one("fmv.x.w", insn_fmv_x_w, NULL)
_one("fmv.w.x", insn_fmv_w_x, NULL)
_one("fmv.x.d", insn_fmv_x_d, NULL)
_one("fmv.d.x", insn_fmv_d_x, NULL)
_two("fadd.h", insn_fadd_h, soft_fadd_h)
_two("fsub.h", insn_fsub_h, soft_fsub_h)
_two("fmul.h", insn_fmul_h, soft_fmul_h)
_two("fdiv.h", insn_fdiv_h, soft_fdiv_h)
_one("fsqrt.h", insn_fsqrt_h, soft_fsqrt_h)
_three("fmadd.h", insn_fmadd_h, soft_fmadd_h)
_three("fmsub.h", insn_fmsub_h, soft_fmsub_h)
_three("fnmsub.h", insn_fnmsub_h, soft_fnmsub_h)
_three("fnmadd.h", insn_fnmadd_h, soft_fnmadd_h)
_two("fsgnj.h", insn_fsgnj_h, NULL)
_two("fsgnjn.h", insn_fsgnjn_h, NULL)
_two("fsgnjx.h", insn_fsgnjx_h, NULL)
_two("fmin.h", insn_fmin_h, NULL)
_two("fmax.h", insn_fmax_h, NULL)
_two("feq.h", insn_feq_h, NULL)
_two("flt.h", insn_flt_h, NULL)
_two("fle.h", insn_fle_h, NULL)
_one("fclass.h", insn_fclass_h, NULL)
_one("fcvt.w.h", insn_fcvt_w_h, soft_fcvt_w_h)
_one("fcvt.h.w", insn_fcvt_h_w, soft_fcvt_h_w)
_one("fcvt.wu.h", insn_fcvt_wu_h, soft_fcvt_wu_h)
_one("fcvt.h.wu", insn_fcvt_h_wu, soft_fcvt_h_wu)
_one("fcvt.l.h", insn_fcvt_l_h, soft_fcvt_l_h)
_one("fcvt.h.l", insn_fcvt_h_l, soft_fcvt_h_l)
_one("fcvt.lu.h", insn_fcvt_lu_h, soft_fcvt_lu_h)
_one("fcvt.h.lu", insn_fcvt_h_lu, soft_fcvt_h_lu)
_one("fcvt.h.s", insn_fcvt_h_s, soft_fcvt_h_s)
_one("fcvt.h.d", insn_fcvt_h_d, soft_fcvt_h_d)
_one("fcvt.s.h", insn_fcvt_s_h, soft_fcvt_s_h)
_one("fcvt.d.h", insn_fcvt_d_h, soft_fcvt_d_h)
_one("fmv.x.h", insn_fmv_x_h, NULL)
_one("fmv.h.x", insn_fmv_h_x, NULL)
_one("fli.h", insn_fli_h, NULL)
_two("fminm.h", insn_fminm_h, NULL)
_two("fmaxm.h", insn_fmaxm_h, NULL)
_two("fleq.h", insn_fleq_h, NULL)
_two("fltq.h", insn_fltq_h, NULL)
_one("fround.h", insn_fround_h, soft_fround_h)
_one("froundnx.h", insn_froundnx_h, soft_froundnx_h)
_one("fli.s", insn_fli_s, NULL)
_two("fminm.s", insn_fminm_s, NULL)
_two("fmaxm.s", insn_fmaxm_s, NULL)
_two("fleq.s", insn_fleq_s, NULL)
_two("fltq.s", insn_fltq_s, NULL)
_one("fround.s", insn_fround_s, soft_fround_s)
_one("froundnx.s", insn_froundnx_s, soft_froundnx_s)
_one("fli.d", insn_fli_d, NULL)
_two("fminm.d", insn_fminm_d, NULL)
_two("fmaxm.d", insn_fmaxm_d, NULL)
_two("fleq.d", insn_fleq_d, NULL)
_two("fltq.d", insn_fltq_d, NULL)
_one("fround.d", insn_fround_d, soft_fround_d)
_one("froundnx.d", insn_froundnx_d, soft_froundnx_d)
_one("fcvtmod.w.d", insn_fcvtmod_w_d, NULL)

HAS_FMA = bool(pv_has_fma())
PATHS = ("native", "soft", "fallback")


cdef bint _rounds(body_t* body) noexcept nogil:
    return body.soft_one != NULL or body.soft_two != NULL or body.soft_three != NULL


def names():
    """Return {instruction name: (number of operands, whether it has an rm field)}."""
    return {name: (BODIES[i].operands, _rounds(&BODIES[i])) for name, i in _INDEX.items()}


cdef uint64_t _run(body_t* body, int path, uint64_t a, uint64_t b, uint64_t c, int rm,
                   uint32_t* flags) noexcept nogil:
    if path == 0:
        if body.operands == 1:
            return body.one(a)
        if body.operands == 2:
            return body.two(a, b)
        return body.three(a, b, c)
    if body.operands == 1:
        return body.soft_one(a, rm, flags)
    if body.operands == 2:
        return body.soft_two(a, b, rm, flags)
    return body.soft_three(a, b, c, rm, flags)


def call(str name, uint64_t a, uint64_t b=0, uint64_t c=0, *,
         int rm=0, str path="native", uint32_t raised=0, int frm=-1):
    """Run one body on register values; return (result, flags).

    path: "native" (the host rounds by rm), "soft" (flags through the pointer), "fallback" (soft, flags to the host).
    raised: flags already set before the call. frm: the host's mode during a soft body; rm if negative.
    """
    cdef body_t* body = &BODIES[<int>_INDEX[name]]
    cdef int how = PATHS.index(path)
    if how and not _rounds(body):
        raise ValueError(f"path={path!r}: {name} has no rm field, allowed is 'native'")
    cdef uint32_t flags = raised
    cdef uint64_t saved, result
    saved = fp_enter(rm if frm < 0 else frm)
    fp_raise(raised)
    result = _run(body, how, a, b, c, rm, &flags if how < 2 else NULL)
    flags |= fp_harvest()
    fp_leave(saved)
    return result, flags


def sweep(str name, values, int rm=0, *, str path="native"):
    """Run one body on each (a, b, c) of `values`; return [(result, flags), ...]."""
    cdef body_t* body = &BODIES[<int>_INDEX[name]]
    cdef int how = PATHS.index(path)
    cdef uint32_t flags
    cdef uint64_t saved, result, a, b, c
    out = []
    for x, y, z in values:
        a, b, c, flags = x, y, z, 0
        saved = fp_enter(rm)
        result = _run(body, how, a, b, c, rm, &flags if how < 2 else NULL)
        flags |= fp_harvest()
        fp_leave(saved)
        out.append((result, flags))
    return out


def environment():
    """Return the calling thread's (rounding mode, sticky flags) as frm and fflags values."""
    return fp_rounding(), fp_harvest()


def walk(steps):
    """Run ("round", rm), ("raise", flags), ("clear", 0) and ("read", 0) steps in one slice; return what "read" saw.

    A read gives (rounding mode, flags). The caller's environment is restored at the end.
    """
    cdef uint64_t saved = fp_enter(0)
    seen = []
    try:
        for what, value in steps:
            if what == "round":
                fp_set_rounding(value)
            elif what == "raise":
                fp_raise(value)
            elif what == "clear":
                fp_clear()
            else:
                seen.append((fp_rounding(), fp_harvest()))
    finally:
        fp_leave(saved)
    return seen
