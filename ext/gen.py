"""Generate, from the table and the names of the bodies, what would otherwise be written once per instruction.

Into `ext/generated/` (git-ignored, a file is rewritten only when it changes):

    opcodes.pxd     the opcode numbers and one property word for each
    decode.pxi      the rows to match an instruction word against, and operand extraction
    threaded.pxi    one handler per opcode, each ending in a call that the C compiler makes a jump
    fused.pxi       handlers of groups, and cover.pxd: which there are (see fuse.py)
    switch.pxi      the same effects as the clauses of one `switch`

A handler's text is a template per kind, written once; the two cores differ only in what `@NEXT`, `@RUN`, `@JUMP`
and `@LEAVE` become.
"""
import os
import re

import isa

# Opcodes that stand for no instruction of the manual: ends and links of blocks.
PSEUDO = ["illegal", "goto", "goto_far", "jal_far", "link", "far"]
ACCESS = {"b": 1, "h": 2, "w": 4, "d": 8, "q": 16}
ATOMIC = ("amo", "cas", "casq", "lr", "sc")
CSR_HOW = {"csrrw": 0, "csrrs": 1, "csrrc": 2, "csrrwi": 4, "csrrsi": 5, "csrrci": 6}
FLAGS = {"END": 1, "BRANCH": 2, "RDX": 4, "JAL": 8, "JALR": 16, "SPLIT": 32}


def rounds(insn):
    """Say whether a floating-point row has a rounding mode."""
    return "rm" in insn.operands


def opcodes():
    """Return [(identifier, Insn or None, static rounding)] in opcode order."""
    found = [(name, None, False) for name in PSEUDO]
    for insn in isa.ISA:
        if insn.kind in ("c", "as", "hint"):
            continue
        found.append((insn.ident, insn, False))
        if rounds(insn):
            found.append((insn.ident + "_rm", insn, True))
    return found


def flags(insn):
    """Return the property word of an opcode."""
    if insn is None:
        return 0
    word = 0
    if insn.kind == "branch":
        word |= FLAGS["BRANCH"]
    if insn.kind == "jal":
        word |= FLAGS["JAL"] | FLAGS["END"]
    if insn.kind == "jalr":
        word |= FLAGS["JALR"] | FLAGS["END"]
    if insn.kind in ("sys", "csr"):
        word |= FLAGS["SPLIT"]
    if "rd" in insn.operands:
        word |= FLAGS["RDX"]
    return word


# ---- decode ----------------------------------------------------------------------------------------------------
def field_expression(field):
    """Return a C expression of an operand's value in the word w."""
    terms = []
    for lsb, width, at in field.pieces:
        terms.append(f"((w >> {lsb}) & {(1 << width) - 1:#x}) << {at}" if at else f"((w >> {lsb}) & {(1 << width) - 1:#x})")
    value = " | ".join(f"({t})" for t in terms)
    if field.signed:
        shift = 32 - field.width
        return f"<int32_t>(<uint32_t>({value}) << {shift}) >> {shift}"
    return f"<int32_t>({value})"


def slots(insn):
    """Return {op slot: expression} of a row; a compressed row fills the slots of the instruction it stands for."""
    base = isa.BY_NAME[insn.expand] if insn.expand else insn
    wanted = [p for o in base.operands for p in re.findall(r"[\w.]+", o)]
    given = list(insn.expand_operands) if insn.expand else wanted
    result = {}
    for want, name in zip(wanted, given, strict=True):
        if want in ("rm", "rtz", "fs3", "pred", "succ"):
            continue
        slot = isa.SLOTS.get(want, "imm")
        if re.fullmatch(r"x\d+|-?\d+", name):
            result[slot] = name.lstrip("x")
            continue
        value = field_expression(insn.fields[name])
        result[slot] = f"8 + ({value})" if name.endswith("c") and name in isa.WIDTHS else value
    if "fs3" in insn.fields:
        result["imm"] = f"({field_expression(insn.fields['fs3'])}) << 8 | ({field_expression(insn.fields['rm'])})"
    elif "rm" in insn.fields:
        result["imm"] = field_expression(insn.fields["rm"])
    return result


def decode_rows():
    """Return the rows in the order they are tried, the most specific first."""
    found = [insn for insn in isa.ISA if insn.kind != "hint"]
    return sorted(found, key=lambda i: -bin(i.mask).count("1"))


def bucket(length, word):
    """Return the bucket of an instruction word: major opcode and funct3."""
    if length == 2:
        return (word >> 11 & 0x1C) | (word & 3)
    return 32 + ((word >> 2 & 31) << 3 | (word >> 12 & 7))


def decode_text(numbers):
    """Return decode.pxi."""
    formats, lines, buckets, forbids = {}, [], [[] for _ in range(32 + 256)], []
    for number, insn in enumerate(decode_rows()):
        key = tuple(sorted(slots(insn).items()))
        fmt = formats.setdefault(key, len(formats))
        opcode = numbers[isa.BY_NAME[insn.expand].ident if insn.expand else insn.ident]
        first = len(forbids)
        for field, value in insn.forbidden:
            mask = sum(((1 << width) - 1) << lsb for lsb, width, _ in insn.fields[field].pieces)
            forbids.append((mask, insn.fields[field].insert(value)))
        mask = ext_mask(insn.ext)
        static = "1" if rounds(insn) else "0"
        lines.append(f"{{{insn.mask:#x}u, {insn.match:#x}u, {mask:#x}ull, {opcode}, {fmt}, {first}, {len(insn.forbidden)}, {static}}}")
        for index in range(len(buckets)):
            length = 2 if index < 32 else 4
            if length != insn.length:
                continue
            if length == 2:
                care, word = 0xE003, (index & 0x1C) << 11 | (index & 3)
            else:
                care, word = 0x707F, ((index - 32) >> 3) << 2 | ((index - 32) & 7) << 12 | 3
            if (word ^ insn.match) & insn.mask & care == 0:
                buckets[index].append(number)
    flat, starts = [], []
    for entries in buckets:
        starts.append(len(flat))
        flat += entries
    starts.append(len(flat))
    out = ["# Generated by gen.py from isa.py.", "cdef extern from *:", '    """']
    out.append("    typedef struct { unsigned mask, match; unsigned long long exts; unsigned short opcode, fmt; "
               "unsigned short forbid, nforbid, rounds; } decode_row_t;")
    out.append("    static const decode_row_t decode_rows[] = {" + ",\n        ".join(lines) + "};")
    out.append("    static const struct { unsigned mask, value; } decode_forbids[] = {"
               + ", ".join(f"{{{m:#x}u, {v:#x}u}}" for m, v in forbids) + "};")
    out.append(f"    static const unsigned short decode_start[] = {{{', '.join(map(str, starts))}}};")
    out.append(f"    static const unsigned short decode_list[] = {{{', '.join(map(str, flat))}}};")
    out.append('    """')
    out.append("    ctypedef struct decode_row_t:")
    out.append("        uint32_t mask, match\n        uint64_t exts\n        uint16_t opcode, fmt, forbid, nforbid, rounds")
    out.append("    ctypedef struct decode_forbid_t:\n        uint32_t mask, value")
    out.append("    const decode_row_t decode_rows[]\n    const decode_forbid_t decode_forbids[]")
    out.append("    const uint16_t decode_start[]\n    const uint16_t decode_list[]\n\n")
    out.append("cdef inline void decode_operands(int fmt, uint32_t w, op_t* op) noexcept nogil:")
    for key, fmt in formats.items():
        out.append(f"    {'if' if fmt == 0 else 'elif'} fmt == {fmt}:")
        if not key:
            out.append("        pass")
        for slot, expression in key:
            cast = "" if slot == "imm" else "<uint8_t>"
            out.append(f"        op.{slot} = {cast}({expression})")
    return "\n".join(out) + "\n"


def ext_mask(ext):
    """Return the bits (arch.pxd, ext_t) of which a hart needs all to have this row."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "arch.pxd")) as file:
        bits = {m[1]: int(m[2]) for m in re.finditer(r"EXT_(\w+) = (\d+)", file.read())}
    return sum(1 << bits[name.upper()] for name in ext.split())


# ---- handlers ---------------------------------------------------------------------------------------------------
def body_fp(insn, static):
    """Return the template of a floating-point row."""
    operands = [o for o in insn.operands if o not in ("rm", "rtz")]
    names = {"fs1": "f[op.rs1]", "fs2": "f[op.rs2]", "fs3": "f[(op.imm >> 8) & 31]", "rs1": "x[op.rs1]", "fli": "op.rs1"}
    args = ", ".join(names[o] for o in operands[1:])
    to_f = operands[0] == "fd"
    target = "f[op.rd]" if to_f else "x[op.rd]"
    out = ["f = &h.s.f[0]"]
    slow = [
        f"rm = fp_rounding_of(h, {'op.imm & 7' if static else '7'})",
        "if rm < 0:",
        "    h.api.trap(h, op, n, CAUSE_ILLEGAL, meta_of(op).raw)",
        "    @LEAVE",
        "else:",
        # NULL: exceptions go to the host's sticky flags, as those of the native bodies do.
        f"    {target} = soft_{insn.ident}({args}, rm, NULL)",
        *(["    if h.fp_mode != 2:", "        fp_dirty(h)"] if to_f else []),
        "    @NEXT",
    ]
    if rounds(insn):
        if static:
            return out + slow
        return out + ["if LIKELY(h.fp_mode == 2):", f"    {target} = insn_{insn.ident}({args})", "    @NEXT", "else:",
                      Slow([*out, *slow])]
    out += ["if UNLIKELY(h.fp_mode == 0):", "    h.api.trap(h, op, n, CAUSE_ILLEGAL, meta_of(op).raw)", "    @LEAVE", "else:",
            f"    {target} = insn_{insn.ident}({args})"]
    if to_f:
        out += ["    if UNLIKELY(h.fp_mode != 2):", "        fp_dirty(h)"]
    return out + ["    @NEXT"]


class Slow:
    """The slow half of a template: lines that need no local of the fast half."""

    def __init__(self, lines, pad=""):
        self.lines, self.pad = lines, pad


def body_access(insn):
    """Return the template of a load, store or atomic."""
    width = ACCESS[insn.name.split(".")[-1] if insn.kind in ATOMIC else insn.name.strip("lsuf")[0]]
    ident, kind = insn.ident, insn.kind
    va = "va = x[op.rs1]" if kind in ATOMIC else "va = x[op.rs1] + <uint64_t><int64_t>op.imm"
    fp_guard = ["if UNLIKELY(h.fp_mode == 0):", "    h.api.trap(h, op, n, CAUSE_ILLEGAL, meta_of(op).raw)", "    @LEAVE", "else:"]
    def split(fast, slow, guard):
        """Put the slow half behind a marker: the threaded core makes it a function of its own (see `emit`)."""
        lines = [*fast, "else:", Slow([va, *slow])]
        return fp_guard + ["    " + line if isinstance(line, str) else Slow(line.lines, "    ") for line in lines] if guard else lines

    if kind in ("load", "fload"):
        if kind == "load":
            done = "x[op.rd] = insn_%s(%s)"
            after = []
        else:
            done = "h.s.f[op.rd] = " + {8: "%s", 4: "FP_BOX | %s", 2: "FP_BOX_H | %s"}[width]
            after = ["    if UNLIKELY(h.fp_mode != 2):", "        fp_dirty(h)"]
        value = f"host_u{width * 8}(va + <uint64_t>e.addend)"
        fast, slow = (done % (ident, value), done % (ident, "h.value")) if kind == "load" else (done % value, done % "h.value")
        return split([va, "e = &h.tlb_r[(va >> 12) & TLB_MASK]", f"if LIKELY(e.tag == (va & TAG_{width})):", "    " + fast, *after,
                      "    @NEXT"],
                     [f"st = h.api.load(h, op, va, {width}, n)", "if st <= ST_LEAVE:", "    " + slow, *after, "    if st == ST_OK:",
                      "        @NEXT", "    else:", "        @LEAVE_NEXT", "else:", "    @LEAVE"], kind == "fload")
    if kind in ("store", "fstore"):
        value = "x[op.rs2]" if kind == "store" else "h.s.f[op.rs2]"
        return split([va, "e = &h.tlb_w[(va >> 12) & TLB_MASK]", f"if LIKELY(e.tag == (va & TAG_{width})):",
                      f"    host_set{width * 8}(va + <uint64_t>e.addend, {value})", "    @NEXT"],
                     [f"st = h.api.store(h, op, va, {width}, {value}, n)", "if st == ST_OK:", "    @NEXT", "elif st == ST_LEAVE:",
                      "    @LEAVE_NEXT", "else:", "    @LEAVE"], kind == "fstore")
    extend = {1: "sext8(%s)", 2: "sext16(%s)", 4: "sext32(%s)"}.get(width, "%s")
    if kind == "cas":
        same = f"if old == {extend % 'x[op.rd & 31]'}:"     # x0 is written to slot 32, and reads 0
        return split([va, "e = &h.tlb_w[(va >> 12) & TLB_MASK]", f"if LIKELY(e.tag == (va & TAG_{width})):",
                      f"    old = {extend % f'host_u{width * 8}(va + <uint64_t>e.addend)'}", f"    {same}",
                      f"        host_set{width * 8}(va + <uint64_t>e.addend, x[op.rs2])", "    x[op.rd] = old", "    @NEXT"],
                     [f"st = h.api.amo_begin(h, op, va, {width}, n)", "if st <= ST_LEAVE:", f"    old = {extend % 'h.value'}",
                      f"    {same}", f"        st = h.api.amo_end(h, op, {width}, x[op.rs2], n)", "    if st <= ST_LEAVE:",
                      "        x[op.rd] = old", "        if st == ST_OK:", "            @NEXT", "        else:",
                      "            @LEAVE_NEXT", "    else:", "        @LEAVE", "else:", "    @LEAVE"], False)
    if kind == "casq":
        return [va, "st = h.api.casq(h, op, x, va, n)", "if st == ST_OK:", "    @NEXT", "elif st == ST_LEAVE:", "    @LEAVE_NEXT",
                "else:", "    @LEAVE"]
    if kind == "amo":
        return split([va, "e = &h.tlb_w[(va >> 12) & TLB_MASK]", f"if LIKELY(e.tag == (va & TAG_{width})):",
                      f"    old = {extend % f'host_u{width * 8}(va + <uint64_t>e.addend)'}",
                      f"    host_set{width * 8}(va + <uint64_t>e.addend, insn_{ident}(old, {extend % 'x[op.rs2]'}))",
                      "    x[op.rd] = old", "    @NEXT"],
                     [f"st = h.api.amo_begin(h, op, va, {width}, n)", "if st <= ST_LEAVE:", f"    old = {extend % 'h.value'}",
                      f"    st = h.api.amo_end(h, op, {width}, insn_{ident}(old, {extend % 'x[op.rs2]'}), n)",
                      "    if st <= ST_LEAVE:", "        x[op.rd] = old", "        if st == ST_OK:", "            @NEXT",
                      "        else:", "            @LEAVE_NEXT", "    else:", "        @LEAVE", "else:", "    @LEAVE"], False)
    call = f"h.api.lr(h, op, va, {width}, n)" if kind == "lr" else f"h.api.sc(h, op, va, {width}, x[op.rs2], n)"
    value = extend % "h.value" if kind == "lr" else "h.value"
    return [va, f"st = {call}", "if st <= ST_LEAVE:", f"    x[op.rd] = {value}", "    if st == ST_OK:", "        @NEXT", "    else:",
            "        @LEAVE_NEXT", "else:", "    @LEAVE"]


STATUS = ["if st == ST_OK:", "    @NEXT", "elif st == ST_JUMP:", "    pc = h.s.pc", "    @JUMP", "else:", "    @LEAVE"]


def body(name, insn, static):
    """Return the template of one opcode."""
    if insn is None:
        return {
            "illegal": ["h.api.trap(h, op, n, CAUSE_ILLEGAL, meta_of(op).raw)", "@LEAVE"],
            "goto": ["n -= op.cnt", "op += link_of(op)", "@RUN"],
            "goto_far": ["n -= op.cnt", "pc = h.page_va + <uint64_t><int64_t>op.imm", "@JUMP"],
            "jal_far": ["x[op.rd] = h.page_va + (op.rs1 | <uint64_t>op.rs2 << 8)", "n -= op.cnt",
                        "pc = h.page_va + <uint64_t><int64_t>op.imm", "@JUMP"],
            "link": ["to = h.api.link(h, op)", "if UNLIKELY(to == NULL):", "    pc = h.page_va + <uint64_t><int64_t>op.imm",
                     "    @LOOKUP", "else:", "    op = to", "    @RUN"],
            "far": ["pc = h.page_va + <uint64_t><int64_t>op.imm", "@JUMP"],
        }[name]
    ident, kind = insn.ident, insn.kind
    if kind == "rr":
        return [f"x[op.rd] = insn_{ident}(x[op.rs1], x[op.rs2])", "@NEXT"]
    if kind == "ri":
        return [f"x[op.rd] = insn_{ident}(x[op.rs1], <uint64_t><int64_t>op.imm)", "@NEXT"]
    if kind == "r1":
        return [f"x[op.rd] = insn_{ident}(x[op.rs1])", "@NEXT"]
    if kind == "upper":
        # pc-relative values are made at run time: machines that share the ops may run them at other virtual addresses.
        base = "h.page_va + (op.rs1 | <uint64_t>op.rs2 << 8) + " if ident == "auipc" else ""
        return [f"x[op.rd] = {base}<uint64_t><int64_t>op.imm", "@NEXT"]
    if kind == "nop":
        return ["@NEXT"]
    if kind == "branch":
        return [f"if insn_{ident}(x[op.rs1], x[op.rs2]):", "    n -= op.cnt", "    op += link_of(op)", "    @RUN", "else:", "    @NEXT"]
    if kind == "jal":
        return ["x[op.rd] = h.page_va + (op.rs1 | <uint64_t>op.rs2 << 8)", "n -= op.cnt", "op += link_of(op)", "@RUN"]
    if kind == "jalr":
        return ["pc = (x[op.rs1] + <uint64_t><int64_t>(op.imm >> 16)) & ~<uint64_t>1",
                "x[op.rd] = h.page_va + <uint64_t>(op.imm & 0xffff)", "n -= op.cnt", "@JUMP"]
    if kind in ("load", "store", "fload", "fstore", *ATOMIC):
        return body_access(insn)
    if kind == "cbo":
        return ["st = h.api.cbo(h, op, x[op.rs1], n)", "if st == ST_OK:", "    @NEXT", "elif st == ST_LEAVE:", "    @LEAVE_NEXT",
                "else:", "    @LEAVE"]
    if kind == "hlv":
        # The body of the plain load of this width and sign: what differs is the translation.
        load = "l" + insn.name.split(".")[1]
        return [f"st = h.api.hlv(h, op, x[op.rs1], {ACCESS[load[1]]}, {int('x' in insn.name.split('.')[0])}, n)", "if st <= ST_LEAVE:",
                f"    x[op.rd] = insn_{load}(h.value)", "    if st == ST_OK:", "        @NEXT", "    else:", "        @LEAVE_NEXT",
                "else:", "    @LEAVE"]
    if kind == "hsv":
        return [f"st = h.api.hsv(h, op, x[op.rs1], {ACCESS[insn.name[-1]]}, x[op.rs2], n)", "if st == ST_OK:", "    @NEXT",
                "elif st == ST_LEAVE:", "    @LEAVE_NEXT", "else:", "    @LEAVE"]
    if kind == "csr":
        return ["n -= op.cnt", f"st = h.api.csr_op(h, op, x, n, {CSR_HOW[ident]})", *STATUS]
    if kind == "sys":
        return ["n -= op.cnt", "st = h.api.sys(h, op, x, n)", *STATUS]
    if kind == "fp":
        return body_fp(insn, static)
    raise ValueError(f"{name}: no template for the kind {kind!r}")


LOCALS = {
    "va": "uint64_t", "pc": "uint64_t", "old": "uint64_t", "e": "tlb_t*", "st": "int", "to": "op_t*",
    "f": "uint64_t*", "rm": "int", "j": "jump_t*",
}
THREADED = {
    "@NEXT": ["(&op[1]).fn(h, &op[1], x, n)"],
    "@RUN": ["if LIKELY(n > 0):", "    op.fn(h, op, x, n)", "else:", "    slow[SLOW_LEAVE](h, op, x, n)"],
    "@JUMP": ["j = &h.jump[(pc >> 1) & JUMP_MASK]", "if LIKELY(j.pc == pc and n > 0):", "    h.page_va = pc & PAGE_MASK",
              "    j.op.fn(h, j.op, x, n)", "else:", "    slow[SLOW_JUMP](h, <op_t*>pc, x, n)"],
    "@LOOKUP": ["slow[SLOW_JUMP](h, <op_t*>pc, x, n)"],
    "@LEAVE_NEXT": ["leave_next(h, op, n)"],
    "@LEAVE": ["pass"],
}
SWITCH = {
    "@NEXT": ["op += 1", "continue"],
    "@RUN": ["continue"],
    "@JUMP": ["op = jump_find(h, pc, n)", "if op == NULL:", "    return", "continue"],
    "@LOOKUP": ["op = jump_slow(h, pc, n)", "if op == NULL:", "    return", "continue"],
    "@LEAVE_NEXT": ["leave_next(h, op, n)", "return"],
    "@LEAVE": ["return"],
}


def emit(template, macros, slow_call=None):
    """Return the lines of a template with the macros replaced, keeping indentation.

    With `slow_call` a slow half becomes that call: in a function of its own, which needs registers saved, it does not
    make the fast half save them.
    """
    out = []
    for line in template:
        if isinstance(line, Slow):
            pad = line.pad + "    "
            out += [pad + (slow_call or "")] if slow_call else [pad + text for text in emit(line.lines, macros)]
            continue
        stripped = line.lstrip()
        if stripped in macros:
            pad = line[: len(line) - len(stripped)]
            out += [pad + m for m in macros[stripped]]
        else:
            out.append(line)
    return out


def threaded_function(name, lines):
    """Return a handler's definition with the locals that its lines use."""
    text = "\n".join(lines)
    bare = re.sub(r"\.\w+", "", text)
    out = [f"\n\ncdef void {name}(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil:"]
    for local, ctype in LOCALS.items():
        if re.search(rf"(?<![\w.&]){local}\b(?! *\()", bare) or re.search(rf"^\s*{local}(\.| =|\[)", text, re.M):
            out.append(f"    cdef {ctype} {local}")
    return out + ["    " + line for line in lines]


def threaded_text(codes):
    """Return threaded.pxi."""
    out = ["# Generated by gen.py from isa.py: one handler per opcode.",
           "# Slow halves are called through a table, since gcc would inline them and save their registers on the fast path.",
           "cdef handler_t[SLOW_COUNT] slow"]
    slow = []
    for name, insn, static in codes:
        template = body(name, insn, static)
        for part in template:
            if isinstance(part, Slow):
                out += threaded_function(f"slow_{name}", emit(part.lines, THREADED))
                slow.append(name)
        out += threaded_function(f"h_{name}", emit(template, THREADED, f"slow[OP_{name.upper()}](h, op, x, n)"))
    out.append("\n\ncdef handler_t[OP_COUNT] handlers")
    for number, (name, _, _) in enumerate(codes):
        out.append(f"handlers[{number}] = h_{name}")
    out += [f"slow[OP_{name.upper()}] = slow_{name}" for name in slow]
    out += ["slow[SLOW_JUMP] = jump_slow", "slow[SLOW_LEAVE] = leave_slow"]
    return "\n".join(out) + "\n"


def switch_text(codes):
    """Return switch.pxi: the body of the loop of the switch core."""
    out = ["# Generated by gen.py from isa.py: the same effects as the clauses of one switch."]
    out.append("cdef void switch_run(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil:")
    for local, ctype in LOCALS.items():
        if local != "j":
            out.append(f"    cdef {ctype} {local}")
    out.append("    cdef meta_t* meta\n    cdef int opcode")
    out.append("    while True:")
    out.append("        meta = meta_of(op)")
    out.append("        if meta.idx >= n:")
    out.append("            leave_at(h, op, n)")
    out.append("            return")
    out.append("        opcode = meta.opcode")
    out.append("        profile_note(op, opcode)")
    for number, (name, insn, static) in enumerate(codes):
        out.append(f"        {'if' if number == 0 else 'elif'} opcode == {number}:  # {name}")
        out += ["            " + line for line in emit(body(name, insn, static), SWITCH)]
    return "\n".join(out) + "\n"


def opcodes_text(codes):
    """Return opcodes.pxd."""
    out = ['"""Generated by gen.py from isa.py: opcode numbers and their properties."""',
           "from libc.stdint cimport uint32_t\n\n\ncdef enum:"]
    out += [f"    OP_{name.upper()} = {number}" for number, (name, _, _) in enumerate(codes)]
    out.append(f"    OP_COUNT = {len(codes)}")
    out += [f"    SLOW_JUMP = {len(codes)}", f"    SLOW_LEAVE = {len(codes) + 1}", f"    SLOW_COUNT = {len(codes) + 2}"]
    out += [f"    OPF_{name} = {value}" for name, value in FLAGS.items()]
    out.append("\n\ncdef extern from *:\n    \"\"\"")
    out.append(f"    static const unsigned char opcode_flags[] = {{{', '.join(str(flags(i)) for _, i, _ in codes)}}};")
    # For htinst: what remains of an access, and how its operands go back into it (1 load, 2 store, 3 as it is).
    access = {"load": 1, "fload": 1, "store": 2, "fstore": 2, "amo": 3, "lr": 3, "sc": 3, "cas": 3, "casq": 3, "hlv": 3, "hsv": 3}
    kinds = [access.get(insn.kind, 0) if insn else 0 for _, insn, _ in codes]
    words = [insn.match if kind else 0 for (_, insn, _), kind in zip(codes, kinds, strict=True)]
    out.append(f"    static const unsigned char opcode_access[] = {{{', '.join(map(str, kinds))}}};")
    out.append(f"    static const unsigned opcode_match[] = {{{', '.join(f'{word:#x}u' for word in words)}}};")
    out.append("    \"\"\"\n    const unsigned char opcode_flags[]\n    const unsigned char opcode_access[]\n    const uint32_t opcode_match[]")
    return "\n".join(out) + "\n"


def write(folder):
    """Write every generated file that differs from what is there."""
    os.makedirs(folder, exist_ok=True)
    codes = opcodes()
    numbers = {name: number for number, (name, _, _) in enumerate(codes)}
    import fuse  # it uses the templates above

    files = {
        "fused.pxi": fuse.handlers_text(),
        "cover.pxd": fuse.decode_text(numbers),
        "opcodes.pxd": opcodes_text(codes),
        "decode.pxi": decode_text(numbers),
        "threaded.pxi": threaded_text(codes),
        "switch.pxi": switch_text(codes),
    }
    for name, text in files.items():
        path = os.path.join(folder, name)
        old = None
        if os.path.exists(path):
            with open(path) as file:
                old = file.read()
        if old != text:
            with open(path, "w") as file:
                file.write(text)


if __name__ == "__main__":
    write(os.path.join(os.path.dirname(os.path.abspath(__file__)), "generated"))
