"""Fused handlers: one per group of instructions that often follow each other (fusion.txt), from the same templates.

A group replaces only the first op's handler; its other ops stay whole, so that a miss in the k-th part goes on unfused
from there, with exact pc and count. Variants forward a result to the next instruction's rs1 or rs2 in a C local: fewer
round trips through memory is where half of the speed comes from. Which variant serves, and the cover of a block, the
decoder chooses.
"""
import itertools
import os
import re

import gen
import isa

# Kinds that may stand anywhere in a group, and those that may only end it.
STRAIGHT = {"rr", "ri", "r1", "upper", "load", "store", "branch"}
LAST = {"jal", "jalr", "goto"}
# What of the next instruction comes from the one before: nothing in particular, its rs1, its rs2.
FORWARD = ("", "1", "2")


def kind_of(name):
    """Return the kind of an opcode for fusion, "" if it has none."""
    if name == "goto":
        return "goto"
    insn = next((i for i in isa.ISA if i.ident == name), None)
    return insn.kind if insn is not None and insn.kind in STRAIGHT | LAST else ""


def fusable(group):
    """Say whether a group of opcode names can be one handler."""
    kinds = [kind_of(name) for name in group]
    return all(k in STRAIGHT for k in kinds[:-1]) and kinds[-1] in STRAIGHT | LAST


def writes(name):
    return kind_of(name) in ("rr", "ri", "r1", "upper", "load")


def reads(name):
    """Return which operands an opcode reads: "1", "12" or ""."""
    of_kind = {"rr": "12", "ri": "1", "r1": "1", "load": "1", "store": "12", "branch": "12", "jalr": "1"}
    return of_kind.get(kind_of(name), "")


def groups():
    """Return the groups of fusion.txt."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fusion.txt")
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [tuple(line.split()) for line in file if line.strip() and not line.startswith("#")]


def variants(group):
    """Return the ways results are forwarded in a group: one of FORWARD for each step from an op to the next."""
    found = [()]
    for before, after in itertools.pairwise(group):
        choices = [f for f in FORWARD if not f or (writes(before) and f in reads(after))]
        found = [v + (c,) for v in found for c in choices]
    return found


def part(name, index, forwarded, keep):
    """Return the template of one member: its op is o<index>, its result goes into r<index> if `keep`."""
    insn = next((i for i in isa.ISA if i.ident == name), None)
    lines = []
    for line in gen.body(name, insn, False):
        if isinstance(line, gen.Slow):
            lines.append(f"    slow[OP_{name.upper()}](h, {op_of(index)}, x, n)")
            continue
        if forwarded:
            line = line.replace(f"x[op.rs{forwarded}]", f"r{index - 1}")
        stored = re.fullmatch(r"( *)x\[op\.rd\] = (.*)", line)
        if keep and stored:
            lines.append(f"{stored[1]}r{index} = {stored[2]}")
            line = f"{stored[1]}x[op.rd] = r{index}"
        lines.append(line)
    return [re.sub(r"\bop\b", op_of(index), line) if "slow[" not in line else line for line in lines]


def op_of(index):
    return f"o{index}" if index else "op"


def handler(name, group, variant):
    """Return the definition of a fused handler."""
    last = len(group) - 1
    inner = None
    for index in range(last, -1, -1):
        forwarded = variant[index - 1] if index else ""
        keep = index < last and variant[index] != ""
        template = part(group[index], index, forwarded, keep)
        macros = dict(gen.THREADED)
        here = op_of(index)
        # A jump inside a group leaves through the op's own fields; its macros speak of `op`.
        macros["@RUN"] = [line.replace("op.fn(h, op,", f"{here}.fn(h, {here},").replace("(h, op,", f"(h, {here},")
                          for line in gen.THREADED["@RUN"]]
        macros["@NEXT"] = inner if inner is not None else [f"(&{here}[1]).fn(h, &{here}[1], x, n)"]
        inner = gen.emit(template, macros)
    lines = [f"o{i} = op + {i}" for i in range(1, last + 1)] + inner
    text = "\n".join(lines)
    out = [f"\n\ncdef void {name}(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil:"]
    out += [f"    cdef op_t* o{i}" for i in range(1, last + 1)]
    out += [f"    cdef uint64_t r{i}" for i in range(last) if re.search(rf"\br{i}\b", text)]
    for local, ctype in (("va", "uint64_t"), ("pc", "uint64_t"), ("e", "tlb_t*"), ("j", "jump_t*")):
        if re.search(rf"^\s*{local} =", text, re.M):
            out.append(f"    cdef {ctype} {local}")
    return out + ["    " + line for line in lines]


def table():
    """Return [(handler name, group, variant)] of every fused handler."""
    return [(f"f{number}_{'_'.join(v or 'n' for v in variant)}", group, variant)
            for number, group in enumerate(groups()) for variant in variants(group)]


def handlers_text():
    """Return fused.pxi: the handlers, and the table of them."""
    rows = table()
    out = ["# Generated by gen.py from fusion.txt: one handler per group and way of forwarding.",
           "from libc.stdint cimport int64_t, uint64_t", "from arch cimport PAGE_MASK"]
    for name, group, variant in rows:
        out += handler(name, group, variant)
    out.append(f"\n\ncdef handler_t[{max(1, len(rows))}] fused")
    out += [f"fused[{number}] = {name}" for number, (name, _, _) in enumerate(rows)]
    return "\n".join(out) + "\n"


def decode_text(numbers):
    """Return cover.pxd: the groups by their opcodes, for the decoder's choice."""
    rows, pairs, triples = table(), {}, {}
    for number, (_, group, variant) in enumerate(rows):
        first = pairs if len(group) == 2 else triples
        first.setdefault(tuple(numbers[name] for name in group), {})[variant] = number
    count = len(numbers)
    pair_rows = [(a * count + b, by) for (a, b), by in sorted(pairs.items())]
    triple_rows = [((a * count + b) * count + c, by) for (a, b, c), by in sorted(triples.items())]
    out = ['"""Generated by gen.py from fusion.txt: which groups of opcodes have fused handlers."""',
           "from libc.stdint cimport int16_t, uint32_t\n\n", "cdef extern from *:", '    """']
    for what, found, width in (("pair", pair_rows, 3), ("triple", triple_rows, 9)):
        keys = ", ".join(f"{key}u" for key, _ in found) or "0"
        cells = []
        for _, by in found:
            for index in range(width):
                way = (FORWARD[index],) if width == 3 else (FORWARD[index // 3], FORWARD[index % 3])
                cells.append(best(by, way))
        out.append(f"    static const unsigned fused_{what}_keys[] = {{{keys}}};")
        out.append(f"    static const short fused_{what}_rows[] = {{{', '.join(map(str, cells)) or '0'}}};")
    out += ['    """', "    const uint32_t fused_pair_keys[]", "    const int16_t fused_pair_rows[]",
            "    const uint32_t fused_triple_keys[]", "    const int16_t fused_triple_rows[]", "\n\ncdef enum:",
            f"    FUSED_PAIRS = {len(pair_rows)}", f"    FUSED_TRIPLES = {len(triple_rows)}",
            f"    FUSED_BASE = {count}"]
    return "\n".join(out) + "\n"


def best(by, way):
    """Return the handler for the operands' way of forwarding: itself where it exists, else the most general one."""
    for index in range(2 ** len(way)):
        asked = tuple("" if index >> k & 1 else w for k, w in enumerate(way))
        if asked in by:
            return by[asked]
    return -1
