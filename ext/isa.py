"""THE table of instructions: bit pattern, operands, extension and kind of every instruction.

Decoder, handlers, assembler, disassembler, the documentation's list and the test that no two encodings
overlap all derive from it. It is also built as `pyvirt._isa`, because assembler and disassembler need it at
run time. A pattern is written as the manual draws it, from the most significant bit down: literal bits, and
fields with their bits of the value, as in "bimm[12|10:5] rs2 rs1 000 bimm[4:1|11] 1100011".

To add an instruction: a row here, its body in `insn_*.pxd`, nothing else.
"""
import re

# Fields that need no bit list in a pattern: their width in bits.
WIDTHS = {
    "rd": 5, "rs1": 5, "rs2": 5, "rs3": 5, "fd": 5, "fs1": 5, "fs2": 5, "fs3": 5, "rm": 3,
    "rdc": 3, "rs1c": 3, "rs2c": 3, "fdc": 3, "fs2c": 3,
    "csr": 12, "zimm": 5, "fli": 5, "aq": 1, "rl": 1, "fm": 4, "pred": 4, "succ": 4,
}
SIGNED = {"imm", "simm", "bimm", "jimm", "cimm", "c16imm", "cuimm", "cjimm", "cbimm", "uimm", "pimm"}
# The op slot (core.md, section 1) that a field goes to; every immediate goes to "imm".
SLOTS = {
    "rd": "rd", "rdc": "rd", "fd": "rd", "fdc": "rd",
    "rs1": "rs1", "rs1c": "rs1", "fs1": "rs1", "zimm": "rs1", "fli": "rs1",
    "rs2": "rs2", "rs2c": "rs2", "fs2": "rs2", "fs2c": "rs2",
}


class Field:
    """Where the bits of one operand lie: `pieces` are (instruction lsb, width, value lsb)."""

    def __init__(self, name: str, pieces: list[tuple[int, int, int]]) -> None:
        self.name = name
        self.pieces = pieces
        self.signed = name in SIGNED
        self.width = max(value + width for _, width, value in pieces)
        self.step = 1 << min(value for _, _, value in pieces)
        self.lo = -(1 << (self.width - 1)) if self.signed else 0
        self.hi = (1 << (self.width - 1)) - self.step if self.signed else (1 << self.width) - self.step

    def extract(self, word: int) -> int:
        """Return the operand's value in an instruction word, sign-extended where the field is signed."""
        value = 0
        for lsb, width, at in self.pieces:
            value |= (word >> lsb & (1 << width) - 1) << at
        if self.signed and value >> (self.width - 1) & 1:
            value -= 1 << self.width
        return value

    def insert(self, value: int) -> int:
        """Return the instruction bits of a value; ValueError when it is out of range or misaligned."""
        if not self.lo <= value <= self.hi:
            raise ValueError(f"{self.name} {value} is out of range {self.lo}..{self.hi}")
        if value % self.step:
            raise ValueError(f"{self.name} {value} is not a multiple of {self.step}")
        word = 0
        for lsb, width, at in self.pieces:
            word |= (value >> at & (1 << width) - 1) << lsb
        return word

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.pieces!r})"


class Insn:
    """One row: `mask`/`match` select it among words of `length` bytes, `forbidden` lists (field, value) that don't."""

    def __init__(
        self, name: str, pattern: str, operands: str, ext: str, kind: str, expand: str, forbidden: str,
    ) -> None:
        self.name = name
        self.pattern = pattern.strip()
        self.operands: tuple[str, ...] = tuple(o for o in operands.split(",") if o)
        self.ext = ext
        self.kind = kind
        self.expand = expand.split(" ")[0] if expand else ""
        self.expand_operands: tuple[str, ...] = tuple(expand.split(" ")[1].split(",")) if " " in expand else ()
        self.forbidden: list[tuple[str, int]] = []
        for item in forbidden.split():
            field, value = item.split(":")
            self.forbidden.append((field, int(value)))
        self.mask, self.match, self.length, self.fields = parse_pattern(name, pattern)

    @property
    def ident(self) -> str:
        """The name as an identifier: `fadd_s`, `amoadd_w`."""
        return self.name.replace(".", "_")

    def matches(self, word: int) -> bool:
        """Say whether an instruction word of this row's length is this instruction."""
        if word & self.mask != self.match:
            return False
        return all(self.fields[field].extract(word) != value for field, value in self.forbidden)

    def __repr__(self) -> str:
        return f"Insn({self.name!r}, {self.pattern!r})"


def parse_pattern(name: str, pattern: str) -> tuple[int, int, int, dict[str, Field]]:
    """Return (mask, match, length in bytes, fields) of a pattern; ValueError if it is not 16 or 32 bits."""
    mask = match = bits = 0
    pieces: dict[str, list[tuple[int, int, int]]] = {}
    parts: list[tuple[str, int, int]] = []  # field, width, value lsb, from the most significant bit down
    for token in pattern.split():
        if re.fullmatch("[01]+", token):
            mask = mask << len(token) | (1 << len(token)) - 1
            match = match << len(token) | int(token, 2)
            parts.append(("", len(token), 0))
            bits += len(token)
            continue
        found = re.fullmatch(r"(\w+)(?:\[([\d|:]+)\])?", token)
        if not found:
            raise ValueError(f"{name}: bad token {token!r} in the pattern {pattern!r}")
        field, spec = found.group(1), found.group(2) or f"{WIDTHS[found.group(1)] - 1}:0"
        for span in spec.split("|"):
            high, _, low = span.partition(":")
            width = int(high) - int(low or high) + 1
            parts.append((field, width, int(low or high)))
            mask, match, bits = mask << width, match << width, bits + width
    if bits not in (16, 32):
        raise ValueError(f"{name}: the pattern {pattern!r} has {bits} bits, not 16 or 32")
    lsb = bits
    for field, width, at in parts:
        lsb -= width
        if field:
            pieces.setdefault(field, []).append((lsb, width, at))
    return mask, match, bits // 8, {field: Field(field, p) for field, p in pieces.items()}


ISA: list[Insn] = []


def row(name: str, pattern: str, operands: str, ext: str, kind: str, expand: str = "", forbidden: str = "") -> None:
    """Add one instruction to the table."""
    ISA.append(Insn(name, pattern, operands, ext, kind, expand, forbidden))


def rows(ext: str, kind: str, operands: str, text: str) -> None:
    """Add a row for each line "name  pattern" of a text."""
    for line in text.strip().splitlines():
        name, _, pattern = line.strip().partition(" ")
        row(name, pattern, operands, ext, kind)


# ---- RV64I ---------------------------------------------------------------------------------------------------
rows("I", "upper", "rd,uimm", """
lui     uimm[31:12] rd 0110111
auipc   uimm[31:12] rd 0010111
""")
rows("I", "jal", "rd,jimm", "jal jimm[20|10:1|11|19:12] rd 1101111")
rows("I", "jalr", "rd,imm(rs1)", "jalr imm[11:0] rs1 000 rd 1100111")
rows("I", "branch", "rs1,rs2,bimm", """
beq     bimm[12|10:5] rs2 rs1 000 bimm[4:1|11] 1100011
bne     bimm[12|10:5] rs2 rs1 001 bimm[4:1|11] 1100011
blt     bimm[12|10:5] rs2 rs1 100 bimm[4:1|11] 1100011
bge     bimm[12|10:5] rs2 rs1 101 bimm[4:1|11] 1100011
bltu    bimm[12|10:5] rs2 rs1 110 bimm[4:1|11] 1100011
bgeu    bimm[12|10:5] rs2 rs1 111 bimm[4:1|11] 1100011
""")
rows("I", "load", "rd,imm(rs1)", """
lb      imm[11:0] rs1 000 rd 0000011
lh      imm[11:0] rs1 001 rd 0000011
lw      imm[11:0] rs1 010 rd 0000011
ld      imm[11:0] rs1 011 rd 0000011
lbu     imm[11:0] rs1 100 rd 0000011
lhu     imm[11:0] rs1 101 rd 0000011
lwu     imm[11:0] rs1 110 rd 0000011
""")
rows("I", "store", "rs2,simm(rs1)", """
sb      simm[11:5] rs2 rs1 000 simm[4:0] 0100011
sh      simm[11:5] rs2 rs1 001 simm[4:0] 0100011
sw      simm[11:5] rs2 rs1 010 simm[4:0] 0100011
sd      simm[11:5] rs2 rs1 011 simm[4:0] 0100011
""")
rows("I", "ri", "rd,rs1,imm", """
addi    imm[11:0] rs1 000 rd 0010011
slti    imm[11:0] rs1 010 rd 0010011
sltiu   imm[11:0] rs1 011 rd 0010011
xori    imm[11:0] rs1 100 rd 0010011
ori     imm[11:0] rs1 110 rd 0010011
andi    imm[11:0] rs1 111 rd 0010011
addiw   imm[11:0] rs1 000 rd 0011011
""")
rows("I", "ri", "rd,rs1,shamt", """
slli    000000 shamt[5:0] rs1 001 rd 0010011
srli    000000 shamt[5:0] rs1 101 rd 0010011
srai    010000 shamt[5:0] rs1 101 rd 0010011
slliw   0000000 shamt[4:0] rs1 001 rd 0011011
srliw   0000000 shamt[4:0] rs1 101 rd 0011011
sraiw   0100000 shamt[4:0] rs1 101 rd 0011011
""")
rows("I", "rr", "rd,rs1,rs2", """
add     0000000 rs2 rs1 000 rd 0110011
sub     0100000 rs2 rs1 000 rd 0110011
sll     0000000 rs2 rs1 001 rd 0110011
slt     0000000 rs2 rs1 010 rd 0110011
sltu    0000000 rs2 rs1 011 rd 0110011
xor     0000000 rs2 rs1 100 rd 0110011
srl     0000000 rs2 rs1 101 rd 0110011
sra     0100000 rs2 rs1 101 rd 0110011
or      0000000 rs2 rs1 110 rd 0110011
and     0000000 rs2 rs1 111 rd 0110011
addw    0000000 rs2 rs1 000 rd 0111011
subw    0100000 rs2 rs1 000 rd 0111011
sllw    0000000 rs2 rs1 001 rd 0111011
srlw    0000000 rs2 rs1 101 rd 0111011
sraw    0100000 rs2 rs1 101 rd 0111011
""")
# fm, pred, succ, rd and rs1 are all accepted: reserved settings are ordinary fences (unprivileged manual, "FENCE").
rows("I", "nop", "pred,succ", "fence fm pred succ rs1 000 rd 0001111")
rows("Zifencei", "nop", "", "fence.i imm[11:0] rs1 001 rd 0001111")
rows("I", "sys", "", """
ecall   000000000000 00000 000 00000 1110011
ebreak  000000000001 00000 000 00000 1110011
""")
# ---- privileged ----------------------------------------------------------------------------------------------
rows("S", "sys", "", "sret 0001000 00010 00000 000 00000 1110011")
rows("I", "sys", "", """
mret    0011000 00010 00000 000 00000 1110011
wfi     0001000 00101 00000 000 00000 1110011
""")
rows("S", "sys", "rs1,rs2", "sfence.vma 0001001 rs2 rs1 000 00000 1110011")
rows("Svinval", "sys", "rs1,rs2", "sinval.vma 0001011 rs2 rs1 000 00000 1110011")
rows("Svinval", "sys", "", """
sfence.w.inval   0001100 00000 00000 000 00000 1110011
sfence.inval.ir  0001100 00001 00000 000 00000 1110011
""")
# ---- hypervisor ----------------------------------------------------------------------------------------------
rows("H", "sys", "rs1,rs2", """
hfence.vvma  0010001 rs2 rs1 000 00000 1110011
hfence.gvma  0110001 rs2 rs1 000 00000 1110011
""")
rows("H Svinval", "sys", "rs1,rs2", """
hinval.vvma  0010011 rs2 rs1 000 00000 1110011
hinval.gvma  0110011 rs2 rs1 000 00000 1110011
""")
rows("H", "hlv", "rd,(rs1)", """
hlv.b    0110000 00000 rs1 100 rd 1110011
hlv.bu   0110000 00001 rs1 100 rd 1110011
hlv.h    0110010 00000 rs1 100 rd 1110011
hlv.hu   0110010 00001 rs1 100 rd 1110011
hlvx.hu  0110010 00011 rs1 100 rd 1110011
hlv.w    0110100 00000 rs1 100 rd 1110011
hlv.wu   0110100 00001 rs1 100 rd 1110011
hlvx.wu  0110100 00011 rs1 100 rd 1110011
hlv.d    0110110 00000 rs1 100 rd 1110011
""")
rows("H", "hsv", "rs2,(rs1)", """
hsv.b  0110001 rs2 rs1 100 00000 1110011
hsv.h  0110011 rs2 rs1 100 00000 1110011
hsv.w  0110101 rs2 rs1 100 00000 1110011
hsv.d  0110111 rs2 rs1 100 00000 1110011
""")
# ---- Zicsr ---------------------------------------------------------------------------------------------------
rows("Zicsr", "csr", "rd,csr,rs1", """
csrrw   csr rs1 001 rd 1110011
csrrs   csr rs1 010 rd 1110011
csrrc   csr rs1 011 rd 1110011
""")
rows("Zicsr", "csr", "rd,csr,zimm", """
csrrwi  csr zimm 101 rd 1110011
csrrsi  csr zimm 110 rd 1110011
csrrci  csr zimm 111 rd 1110011
""")
# ---- M -------------------------------------------------------------------------------------------------------
rows("M", "rr", "rd,rs1,rs2", """
mul     0000001 rs2 rs1 000 rd 0110011
mulh    0000001 rs2 rs1 001 rd 0110011
mulhsu  0000001 rs2 rs1 010 rd 0110011
mulhu   0000001 rs2 rs1 011 rd 0110011
div     0000001 rs2 rs1 100 rd 0110011
divu    0000001 rs2 rs1 101 rd 0110011
rem     0000001 rs2 rs1 110 rd 0110011
remu    0000001 rs2 rs1 111 rd 0110011
mulw    0000001 rs2 rs1 000 rd 0111011
divw    0000001 rs2 rs1 100 rd 0111011
divuw   0000001 rs2 rs1 101 rd 0111011
remw    0000001 rs2 rs1 110 rd 0111011
remuw   0000001 rs2 rs1 111 rd 0111011
""")
# ---- A -------------------------------------------------------------------------------------------------------
AMOS = (("swap", "00001"), ("add", "00000"), ("xor", "00100"), ("and", "01100"), ("or", "01000"), ("min", "10000"),
        ("max", "10100"), ("minu", "11000"), ("maxu", "11100"))
for suffix, funct3 in (("w", "010"), ("d", "011")):
    row(f"lr.{suffix}", f"00010 aq rl 00000 rs1 {funct3} rd 0101111", "rd,(rs1)", "A", "lr")
    row(f"sc.{suffix}", f"00011 aq rl rs2 rs1 {funct3} rd 0101111", "rd,rs2,(rs1)", "A", "sc")
    for amo, funct5 in AMOS:
        row(f"amo{amo}.{suffix}", f"{funct5} aq rl rs2 rs1 {funct3} rd 0101111", "rd,rs2,(rs1)", "A", "amo")
for suffix, funct3 in (("b", "000"), ("h", "001")):
    for amo, funct5 in AMOS:
        row(f"amo{amo}.{suffix}", f"{funct5} aq rl rs2 rs1 {funct3} rd 0101111", "rd,rs2,(rs1)", "Zabha", "amo")
for suffix, funct3, ext in (("w", "010", "Zacas"), ("d", "011", "Zacas"), ("b", "000", "Zabha Zacas"),
                            ("h", "001", "Zabha Zacas")):
    row(f"amocas.{suffix}", f"00101 aq rl rs2 rs1 {funct3} rd 0101111", "rd,rs2,(rs1)", ext, "cas")
# Pairs of registers: odd numbers are reserved.
row("amocas.q", "00101 aq rl rs2[4:1] 0 rs1 100 rd[4:1] 0 0101111", "rd,rs2,(rs1)", "Zacas", "casq")
# ---- Zba, Zbb, Zbs, Zicond -----------------------------------------------------------------------------------
rows("Zba", "rr", "rd,rs1,rs2", """
add.uw     0000100 rs2 rs1 000 rd 0111011
sh1add     0010000 rs2 rs1 010 rd 0110011
sh2add     0010000 rs2 rs1 100 rd 0110011
sh3add     0010000 rs2 rs1 110 rd 0110011
sh1add.uw  0010000 rs2 rs1 010 rd 0111011
sh2add.uw  0010000 rs2 rs1 100 rd 0111011
sh3add.uw  0010000 rs2 rs1 110 rd 0111011
""")
rows("Zba", "ri", "rd,rs1,shamt", "slli.uw 000010 shamt[5:0] rs1 001 rd 0011011")
rows("Zbb", "rr", "rd,rs1,rs2", """
andn  0100000 rs2 rs1 111 rd 0110011
orn   0100000 rs2 rs1 110 rd 0110011
xnor  0100000 rs2 rs1 100 rd 0110011
max   0000101 rs2 rs1 110 rd 0110011
maxu  0000101 rs2 rs1 111 rd 0110011
min   0000101 rs2 rs1 100 rd 0110011
minu  0000101 rs2 rs1 101 rd 0110011
rol   0110000 rs2 rs1 001 rd 0110011
ror   0110000 rs2 rs1 101 rd 0110011
rolw  0110000 rs2 rs1 001 rd 0111011
rorw  0110000 rs2 rs1 101 rd 0111011
""")
rows("Zbb", "r1", "rd,rs1", """
clz     0110000 00000 rs1 001 rd 0010011
ctz     0110000 00001 rs1 001 rd 0010011
cpop    0110000 00010 rs1 001 rd 0010011
sext.b  0110000 00100 rs1 001 rd 0010011
sext.h  0110000 00101 rs1 001 rd 0010011
clzw    0110000 00000 rs1 001 rd 0011011
ctzw    0110000 00001 rs1 001 rd 0011011
cpopw   0110000 00010 rs1 001 rd 0011011
zext.h  0000100 00000 rs1 100 rd 0111011
rev8    011010 111000 rs1 101 rd 0010011
orc.b   001010 000111 rs1 101 rd 0010011
""")
rows("Zbb", "ri", "rd,rs1,shamt", """
rori   011000 shamt[5:0] rs1 101 rd 0010011
roriw  0110000 shamt[4:0] rs1 101 rd 0011011
""")
rows("Zbs", "rr", "rd,rs1,rs2", """
bclr  0100100 rs2 rs1 001 rd 0110011
bext  0100100 rs2 rs1 101 rd 0110011
binv  0110100 rs2 rs1 001 rd 0110011
bset  0010100 rs2 rs1 001 rd 0110011
""")
rows("Zbs", "ri", "rd,rs1,shamt", """
bclri  010010 shamt[5:0] rs1 001 rd 0010011
bexti  010010 shamt[5:0] rs1 101 rd 0010011
binvi  011010 shamt[5:0] rs1 001 rd 0010011
bseti  001010 shamt[5:0] rs1 001 rd 0010011
""")
rows("Zicond", "rr", "rd,rs1,rs2", """
czero.eqz  0000111 rs2 rs1 101 rd 0110011
czero.nez  0000111 rs2 rs1 111 rd 0110011
""")
rows("Zbc", "rr", "rd,rs1,rs2", """
clmul   0000101 rs2 rs1 001 rd 0110011
clmulr  0000101 rs2 rs1 010 rd 0110011
clmulh  0000101 rs2 rs1 011 rd 0110011
""")
rows("Zbkb", "rr", "rd,rs1,rs2", """
pack   0000100 rs2 rs1 100 rd 0110011
packh  0000100 rs2 rs1 111 rd 0110011
""")
# With rs2 = x0 it is Zbb's zext.h, which comes with Zbkb here.
row("packw", "0000100 rs2 rs1 100 rd 0111011", "rd,rs1,rs2", "Zbkb", "rr", forbidden="rs2:0")
rows("Zbkb", "r1", "rd,rs1", "brev8 0110100 00111 rs1 101 rd 0010011")
rows("Zbkx", "rr", "rd,rs1,rs2", """
xperm4  0010100 rs2 rs1 010 rd 0110011
xperm8  0010100 rs2 rs1 100 rd 0110011
""")
# ---- Zimop: instructions that other extensions may redefine; until then they write 0 ---------------------------------
for n in range(32):
    bits = f"{n:05b}"
    row(f"mop.r.{n}", f"1{bits[0]}00{bits[1:3]}0111{bits[3:]} rs1 100 rd 1110011", "rd,rs1", "Zimop", "as",
        "addi rd,x0,0")
for n in range(8):
    bits = f"{n:03b}"
    row(f"mop.rr.{n}", f"1{bits[0]}00{bits[1:]}1 rs2 rs1 100 rd 1110011", "rd,rs1,rs2", "Zimop", "as",
        "addi rd,x0,0")
# ---- cache blocks; prefetches are the ORI hints with rd = x0, decoded as ori, and listed for assembler, disassembler
rows("Zicbom", "cbo", "(rs1)", """
cbo.inval  000000000000 rs1 010 00000 0001111
cbo.clean  000000000001 rs1 010 00000 0001111
cbo.flush  000000000010 rs1 010 00000 0001111
""")
rows("Zicboz", "cbo", "(rs1)", "cbo.zero 000000000100 rs1 010 00000 0001111")
rows("Zicbop", "hint", "pimm(rs1)", """
prefetch.i  pimm[11:5] 00000 rs1 110 00000 0010011
prefetch.r  pimm[11:5] 00001 rs1 110 00000 0010011
prefetch.w  pimm[11:5] 00011 rs1 110 00000 0010011
""")
rows("Zihintpause", "hint", "", "pause 0000 0001 0000 00000 000 00000 0001111")
rows("Zihintntl", "hint", "", """
ntl.p1    0000000 00010 00000 000 00000 0110011
ntl.pall  0000000 00011 00000 000 00000 0110011
ntl.s1    0000000 00100 00000 000 00000 0110011
ntl.all   0000000 00101 00000 000 00000 0110011
c.ntl.p1    100 1 00000 00010 10
c.ntl.pall  100 1 00000 00011 10
c.ntl.s1    100 1 00000 00100 10
c.ntl.all   100 1 00000 00101 10
""")
rows("Zawrs", "sys", "", """
wrs.nto  000000001101 00000 000 00000 1110011
wrs.sto  000000011101 00000 000 00000 1110011
""")
# ---- F, D, Zfh and Zfa ---------------------------------------------------------------------------------------
for suffix, ext, fmt, width in (("s", "F", "00", "010"), ("d", "D", "01", "011"), ("h", "Zfh", "10", "001")):
    letter = "w" if suffix == "s" else suffix
    least = "Zfhmin" if suffix == "h" else ext
    row(f"fl{letter}", f"imm[11:0] rs1 {width} fd 0000111", "fd,imm(rs1)", least, "fload")
    row(f"fs{letter}", f"simm[11:5] fs2 rs1 {width} simm[4:0] 0100111", "fs2,simm(rs1)", least, "fstore")
    for op, opcode in (("fmadd", "1000011"), ("fmsub", "1000111"), ("fnmsub", "1001011"), ("fnmadd", "1001111")):
        row(f"{op}.{suffix}", f"fs3 {fmt} fs2 fs1 rm fd {opcode}", "fd,fs1,fs2,fs3,rm", ext, "fp")
    for op, funct5 in (("fadd", "00000"), ("fsub", "00001"), ("fmul", "00010"), ("fdiv", "00011")):
        row(f"{op}.{suffix}", f"{funct5} {fmt} fs2 fs1 rm fd 1010011", "fd,fs1,fs2,rm", ext, "fp")
    row(f"fsqrt.{suffix}", f"01011 {fmt} 00000 fs1 rm fd 1010011", "fd,fs1,rm", ext, "fp")
    for op, funct3 in (("fsgnj", "000"), ("fsgnjn", "001"), ("fsgnjx", "010")):
        row(f"{op}.{suffix}", f"00100 {fmt} fs2 fs1 {funct3} fd 1010011", "fd,fs1,fs2", ext, "fp")
    for op, funct3 in (("fmin", "000"), ("fmax", "001")):
        row(f"{op}.{suffix}", f"00101 {fmt} fs2 fs1 {funct3} fd 1010011", "fd,fs1,fs2", ext, "fp")
    for op, funct3 in (("fle", "000"), ("flt", "001"), ("feq", "010")):
        row(f"{op}.{suffix}", f"10100 {fmt} fs2 fs1 {funct3} rd 1010011", "rd,fs1,fs2", ext, "fp")
    row(f"fclass.{suffix}", f"11100 {fmt} 00000 fs1 001 rd 1010011", "rd,fs1", ext, "fp")
    for integer, code in (("w", "00000"), ("wu", "00001"), ("l", "00010"), ("lu", "00011")):
        row(f"fcvt.{integer}.{suffix}", f"11000 {fmt} {code} fs1 rm rd 1010011", "rd,fs1,rm", ext, "fp")
        row(f"fcvt.{suffix}.{integer}", f"11010 {fmt} {code} rs1 rm fd 1010011", "fd,rs1,rm", ext, "fp")
    row(f"fmv.x.{letter}", f"11100 {fmt} 00000 fs1 000 rd 1010011", "rd,fs1", least, "fp")
    row(f"fmv.{letter}.x", f"11110 {fmt} 00000 rs1 000 fd 1010011", "fd,rs1", least, "fp")
    row(f"fli.{suffix}", f"11110 {fmt} 00001 fli 000 fd 1010011", "fd,fli", f"Zfa {ext}", "fp")
    for op, funct3 in (("fminm", "010"), ("fmaxm", "011")):
        row(f"{op}.{suffix}", f"00101 {fmt} fs2 fs1 {funct3} fd 1010011", "fd,fs1,fs2", f"Zfa {ext}", "fp")
    for op, funct3 in (("fleq", "100"), ("fltq", "101")):
        row(f"{op}.{suffix}", f"10100 {fmt} fs2 fs1 {funct3} rd 1010011", "rd,fs1,fs2", f"Zfa {ext}", "fp")
    for op, code in (("fround", "00100"), ("froundnx", "00101")):
        row(f"{op}.{suffix}", f"01000 {fmt} {code} fs1 rm fd 1010011", "fd,fs1,rm", f"Zfa {ext}", "fp")
row("fcvtmod.w.d", "11000 01 01000 fs1 001 rd 1010011", "rd,fs1,rtz", "Zfa D", "fp")
for to, source, fmt, code, ext in (("s", "h", "00", "00010", "Zfhmin"), ("h", "s", "10", "00000", "Zfhmin"),
                                   ("d", "h", "01", "00010", "Zfhmin D"), ("h", "d", "10", "00001", "Zfhmin D")):
    row(f"fcvt.{to}.{source}", f"01000 {fmt} {code} fs1 rm fd 1010011", "fd,fs1,rm", ext, "fp")
row("fcvt.s.d", "01000 00 00001 fs1 rm fd 1010011", "fd,fs1,rm", "D", "fp")
row("fcvt.d.s", "01000 01 00000 fs1 rm fd 1010011", "fd,fs1,rm", "D", "fp")


# ---- C: every row names the instruction it stands for, with its operands in order ----------------------------
def compressed(name: str, pattern: str, operands: str, expand: str, forbidden: str = "", ext: str = "C") -> None:
    """Add a 16-bit instruction; `expand` is "base operand,operand,..." with x0, x1, x2 as constants."""
    row(name, pattern, operands, ext, "c", expand, forbidden)


compressed("c.addi4spn", "000 c4imm[5:4|9:6|2|3] rdc 00", "rdc,sp,c4imm", "addi rdc,x2,c4imm", "c4imm:0")
compressed("c.fld", "001 clsd[5:3] rs1c clsd[7:6] fdc 00", "fdc,clsd(rs1c)", "fld fdc,clsd,rs1c", ext="C D")
compressed("c.lw", "010 clsw[5:3] rs1c clsw[2|6] rdc 00", "rdc,clsw(rs1c)", "lw rdc,clsw,rs1c")
compressed("c.ld", "011 clsd[5:3] rs1c clsd[7:6] rdc 00", "rdc,clsd(rs1c)", "ld rdc,clsd,rs1c")
compressed("c.fsd", "101 clsd[5:3] rs1c clsd[7:6] fs2c 00", "fs2c,clsd(rs1c)", "fsd fs2c,clsd,rs1c", ext="C D")
compressed("c.sw", "110 clsw[5:3] rs1c clsw[2|6] rs2c 00", "rs2c,clsw(rs1c)", "sw rs2c,clsw,rs1c")
compressed("c.sd", "111 clsd[5:3] rs1c clsd[7:6] rs2c 00", "rs2c,clsd(rs1c)", "sd rs2c,clsd,rs1c")
compressed("c.nop", "000 cimm[5] 00000 cimm[4:0] 01", "", "addi x0,x0,cimm")
compressed("c.addi", "000 cimm[5] rd cimm[4:0] 01", "rd,cimm", "addi rd,rd,cimm", "rd:0")
compressed("c.addiw", "001 cimm[5] rd cimm[4:0] 01", "rd,cimm", "addiw rd,rd,cimm", "rd:0")
compressed("c.li", "010 cimm[5] rd cimm[4:0] 01", "rd,cimm", "addi rd,x0,cimm")
compressed("c.addi16sp", "011 c16imm[9] 00010 c16imm[4|6|8:7|5] 01", "sp,c16imm", "addi x2,x2,c16imm", "c16imm:0")
compressed("c.lui", "011 cuimm[17] rd cuimm[16:12] 01", "rd,cuimm", "lui rd,cuimm", "rd:2 cuimm:0")
compressed("c.srli", "100 cshamt[5] 00 rdc cshamt[4:0] 01", "rdc,cshamt", "srli rdc,rdc,cshamt")
compressed("c.srai", "100 cshamt[5] 01 rdc cshamt[4:0] 01", "rdc,cshamt", "srai rdc,rdc,cshamt")
compressed("c.andi", "100 cimm[5] 10 rdc cimm[4:0] 01", "rdc,cimm", "andi rdc,rdc,cimm")
for _name, _base, _high, _low in (("c.sub", "sub", "0", "00"), ("c.xor", "xor", "0", "01"), ("c.or", "or", "0", "10"),
                                  ("c.and", "and", "0", "11"), ("c.subw", "subw", "1", "00"),
                                  ("c.addw", "addw", "1", "01")):
    compressed(_name, f"100 {_high} 11 rdc {_low} rs2c 01", "rdc,rs2c", f"{_base} rdc,rdc,rs2c")
compressed("c.j", "101 cjimm[11|4|9:8|10|6|7|3:1|5] 01", "cjimm", "jal x0,cjimm")
compressed("c.beqz", "110 cbimm[8|4:3] rs1c cbimm[7:6|2:1|5] 01", "rs1c,cbimm", "beq rs1c,x0,cbimm")
compressed("c.bnez", "111 cbimm[8|4:3] rs1c cbimm[7:6|2:1|5] 01", "rs1c,cbimm", "bne rs1c,x0,cbimm")
compressed("c.slli", "000 cshamt[5] rd cshamt[4:0] 10", "rd,cshamt", "slli rd,rd,cshamt")
compressed("c.fldsp", "001 cldsp[5] fd cldsp[4:3|8:6] 10", "fd,cldsp(sp)", "fld fd,cldsp,x2", ext="C D")
compressed("c.lwsp", "010 clwsp[5] rd clwsp[4:2|7:6] 10", "rd,clwsp(sp)", "lw rd,clwsp,x2", "rd:0")
compressed("c.ldsp", "011 cldsp[5] rd cldsp[4:3|8:6] 10", "rd,cldsp(sp)", "ld rd,cldsp,x2", "rd:0")
compressed("c.jr", "100 0 rs1 00000 10", "rs1", "jalr x0,0,rs1", "rs1:0")
compressed("c.mv", "100 0 rd rs2 10", "rd,rs2", "add rd,x0,rs2", "rs2:0")
compressed("c.ebreak", "100 1 00000 00000 10", "", "ebreak")
compressed("c.jalr", "100 1 rs1 00000 10", "rs1", "jalr x1,0,rs1", "rs1:0")
compressed("c.add", "100 1 rd rs2 10", "rd,rs2", "add rd,rd,rs2", "rs2:0")
compressed("c.fsdsp", "101 csdsp[5:3|8:6] fs2 10", "fs2,csdsp(sp)", "fsd fs2,csdsp,x2", ext="C D")
compressed("c.swsp", "110 cswsp[5:2|7:6] rs2 10", "rs2,cswsp(sp)", "sw rs2,cswsp,x2")
compressed("c.sdsp", "111 csdsp[5:3|8:6] rs2 10", "rs2,csdsp(sp)", "sd rs2,csdsp,x2")


# ---- Zcb and Zcmop
compressed("c.lbu", "100 000 rs1c czb[0|1] rdc 00", "rdc,czb(rs1c)", "lbu rdc,czb,rs1c", ext="Zcb")
compressed("c.lhu", "100 001 rs1c 0 czh[1] rdc 00", "rdc,czh(rs1c)", "lhu rdc,czh,rs1c", ext="Zcb")
compressed("c.lh", "100 001 rs1c 1 czh[1] rdc 00", "rdc,czh(rs1c)", "lh rdc,czh,rs1c", ext="Zcb")
compressed("c.sb", "100 010 rs1c czb[0|1] rs2c 00", "rs2c,czb(rs1c)", "sb rs2c,czb,rs1c", ext="Zcb")
compressed("c.sh", "100 011 rs1c 0 czh[1] rs2c 00", "rs2c,czh(rs1c)", "sh rs2c,czh,rs1c", ext="Zcb")
compressed("c.zext.b", "100 111 rdc 11 000 01", "rdc", "andi rdc,rdc,255", ext="Zcb")
compressed("c.sext.b", "100 111 rdc 11 001 01", "rdc", "sext.b rdc,rdc", ext="Zcb Zbb")
compressed("c.zext.h", "100 111 rdc 11 010 01", "rdc", "zext.h rdc,rdc", ext="Zcb Zbb")
compressed("c.sext.h", "100 111 rdc 11 011 01", "rdc", "sext.h rdc,rdc", ext="Zcb Zbb")
compressed("c.zext.w", "100 111 rdc 11 100 01", "rdc", "add.uw rdc,rdc,x0", ext="Zcb Zba")
compressed("c.not", "100 111 rdc 11 101 01", "rdc", "xori rdc,rdc,-1", ext="Zcb")
compressed("c.mul", "100 111 rdc 10 rs2c 01", "rdc,rs2c", "mul rdc,rdc,rs2c", ext="Zcb M")
for n in range(1, 16, 2):
    compressed(f"c.mop.{n}", f"011 00 {n >> 1:03b} 1 00000 01", "", "addi x0,x0,0", ext="Zcmop")

del AMOS, n, bits, to, source, least, suffix, funct3, amo, funct5, ext, fmt, width, letter, op, opcode, integer, code
del _name, _base, _high, _low

BY_NAME: dict[str, Insn] = {insn.name: insn for insn in ISA}

# Narrower rows are hints of wider ones (prefetch of ori, pause of fence): the assembler and disassembler prefer them.
HINT_OF = {"prefetch.i": "ori", "prefetch.r": "ori", "prefetch.w": "ori", "pause": "fence",
           **{f"{c}ntl.{which}": f"{c}add" for c in ("", "c.") for which in ("p1", "pall", "s1", "all")}}


def find(word: int) -> "Insn | None":
    """Return the row of an instruction word (16-bit words have low bits other than 11), hints before their base."""
    length = 4 if word & 3 == 3 else 2
    found = None
    for insn in ISA:
        if insn.length == length and insn.matches(word) and (found is None or insn.name in HINT_OF):
            found = insn
    return found
