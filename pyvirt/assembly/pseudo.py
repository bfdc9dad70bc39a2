"""Pseudo-instructions: the table of templates, and the sequences that load constants and addresses.

A template says which instruction a pseudo-instruction stands for; $1, $2 ... are its operands. The assembler expands
it, and the disassembler with `aliases=True` matches it backwards, so both always agree. A template marked "only" is
never chosen by the disassembler. Source: unprivileged manual, "RISC-V Assembly Programmer's Handbook".
"""
from __future__ import annotations

from typing import NamedTuple


class Pseudo(NamedTuple):
    """One template: `name $1,...,$arity` stands for `base operands`."""

    name: str
    arity: int
    base: str
    operands: tuple[str, ...]
    shown: bool


def _parse(text: str) -> list[Pseudo]:
    found = []
    for line in text.strip().splitlines():
        left, _, right = line.partition("=")
        name, count = left.split()
        words = right.split()
        operands = tuple(words[1].split(",")) if len(words) > 1 and words[1] != "only" else ()
        found.append(Pseudo(name, int(count), words[0], operands, words[-1] != "only"))
    return found


# The first template that matches is what the disassembler shows.
PSEUDOS: list[Pseudo] = _parse("""
nop        0 = addi zero,zero,0
li         2 = addi $1,zero,$2
mv         2 = addi $1,$2,0
move       2 = addi $1,$2,0 only
not        2 = xori $1,$2,-1
neg        2 = sub $1,zero,$2
negw       2 = subw $1,zero,$2
sext.w     2 = addiw $1,$2,0
zext.b     2 = andi $1,$2,255
zext.w     2 = add.uw $1,$2,zero
seqz       2 = sltiu $1,$2,1
snez       2 = sltu $1,zero,$2
sltz       2 = slt $1,$2,zero
sgtz       2 = slt $1,zero,$2
sgt        3 = slt $1,$3,$2 only
sgtu       3 = sltu $1,$3,$2 only
beqz       2 = beq $1,zero,$2
bnez       2 = bne $1,zero,$2
blez       2 = bge zero,$1,$2
bgez       2 = bge $1,zero,$2
bltz       2 = blt $1,zero,$2
bgtz       2 = blt zero,$1,$2
bgt        3 = blt $2,$1,$3 only
ble        3 = bge $2,$1,$3 only
bgtu       3 = bltu $2,$1,$3 only
bleu       3 = bgeu $2,$1,$3 only
j          1 = jal zero,$1
jal        1 = jal ra,$1
ret        0 = jalr zero,0(ra)
jr         1 = jalr zero,0($1)
jalr       1 = jalr ra,0($1)
jalr       2 = jalr $1,0($2) only
jalr       3 = jalr $1,$3($2) only
fence      0 = fence iorw,iorw
unimp      0 = csrrw zero,cycle,zero
ebreak     0 = ebreak only
sbreak     0 = ebreak only
scall      0 = ecall only
sfence.vma 0 = sfence.vma zero,zero
sfence.vma 1 = sfence.vma $1,zero
hfence.vvma 0 = hfence.vvma zero,zero
hfence.vvma 1 = hfence.vvma $1,zero
hfence.gvma 0 = hfence.gvma zero,zero
hfence.gvma 1 = hfence.gvma $1,zero
rdcycle    1 = csrrs $1,cycle,zero
rdtime     1 = csrrs $1,time,zero
rdinstret  1 = csrrs $1,instret,zero
frcsr      1 = csrrs $1,fcsr,zero
frrm       1 = csrrs $1,frm,zero
frflags    1 = csrrs $1,fflags,zero
fscsr      1 = csrrw zero,fcsr,$1
fscsr      2 = csrrw $1,fcsr,$2
fsrm       1 = csrrw zero,frm,$1
fsrm       2 = csrrw $1,frm,$2
fsflags    1 = csrrw zero,fflags,$1
fsflags    2 = csrrw $1,fflags,$2
fsrmi      1 = csrrwi zero,frm,$1
fsrmi      2 = csrrwi $1,frm,$2
fsflagsi   1 = csrrwi zero,fflags,$1
fsflagsi   2 = csrrwi $1,fflags,$2
csrr       2 = csrrs $1,$2,zero
csrw       2 = csrrw zero,$1,$2
csrs       2 = csrrs zero,$1,$2
csrc       2 = csrrc zero,$1,$2
csrwi      2 = csrrwi zero,$1,$2
csrsi      2 = csrrsi zero,$1,$2
csrci      2 = csrrci zero,$1,$2
fmv.s      2 = fsgnj.s $1,$2,$2
fmv.d      2 = fsgnj.d $1,$2,$2
fabs.s     2 = fsgnjx.s $1,$2,$2
fabs.d     2 = fsgnjx.d $1,$2,$2
fneg.s     2 = fsgnjn.s $1,$2,$2
fneg.d     2 = fsgnjn.d $1,$2,$2
fgt.s      3 = flt.s $1,$3,$2 only
fgt.d      3 = flt.d $1,$3,$2 only
fge.s      3 = fle.s $1,$3,$2 only
fge.d      3 = fle.d $1,$3,$2 only
fmv.x.s    2 = fmv.x.w $1,$2 only
fmv.s.x    2 = fmv.w.x $1,$2 only
""")
BY_SHAPE: dict[tuple[str, int], Pseudo] = {(p.name, p.arity): p for p in PSEUDOS}

# GNU as takes an immediate where these expect a register, and means the immediate form.
IMMEDIATE_FORMS: dict[str, str] = {
    "add": "addi", "addw": "addiw", "and": "andi", "or": "ori", "xor": "xori", "slt": "slti", "sltu": "sltiu",
    "sll": "slli", "srl": "srli", "sra": "srai", "sllw": "slliw", "srlw": "srliw", "sraw": "sraiw",
    "ror": "rori", "rorw": "roriw", "bclr": "bclri", "bext": "bexti", "binv": "binvi", "bset": "bseti",
    "csrrw": "csrrwi", "csrrs": "csrrsi", "csrrc": "csrrci", "csrw": "csrwi", "csrs": "csrsi", "csrc": "csrci",
}
# What an extension's row stands for where the extension is not there: two shifts by the same amount.
SHIFT_PAIRS: dict[str, tuple[str, int]] = {
    "sext.b": ("srai", 56), "sext.h": ("srai", 48), "zext.h": ("srli", 48), "zext.w": ("srli", 32),
}
# Those that take an address and need code to make it: handled by name in asm.py.
SEQUENCES: tuple[str, ...] = ("li", "la", "lla", "call", "tail", "jump")
NAMES: frozenset[str] = frozenset(p.name for p in PSEUDOS) | set(SEQUENCES) | set(SHIFT_PAIRS) | {
    "fence.tso", "c.unimp",
}


def load_constant(value: int) -> list[tuple[str, int]]:
    """Return the steps that make a 64-bit constant: "li" and "lui" start it, "addi", "addiw" and "slli" go on."""
    value = ((value & (1 << 64) - 1) ^ 1 << 63) - (1 << 63)
    low = ((value & 0xFFF) ^ 0x800) - 0x800
    if value == low:
        return [("li", low)]
    if -(1 << 31) <= value < 1 << 31:
        high = (value + 0x800) >> 12 & 0xFFFFF
        return [("lui", high)] + ([("addiw", low)] if low else [])
    rest = ((value - low & (1 << 64) - 1) ^ 1 << 63) - (1 << 63) >> 12
    shift = 12
    while not rest & 1:
        rest >>= 1
        shift += 1
    if rest != ((rest & 0xFFF) ^ 0x800) - 0x800 and shift > 12 and -(1 << 31) <= rest << 12 < 1 << 31:
        rest, shift = rest << 12, shift - 12  # one lui makes it, where lui and addiw were needed
        if not shift:
            shift = 12
            rest >>= 12
    return [*load_constant(rest), ("slli", shift), *([("addi", low)] if low else [])]
