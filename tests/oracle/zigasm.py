"""An assembler that owes nothing to pyvirt's table: LLVM's, from the wheel `ziglang`.

Start-up costs about 0.1 s, so callers batch many instructions into one text; results are kept in a temporary folder
by the digest of text, target and address, and a second run of the tests assembles nothing.
"""
from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VERSION = "0.17.1"
MARCH = (
    "m,a,f,d,c,h,zba,zbb,zbc,zbs,zbkb,zbkx,zicond,zicbom,zicboz,zicbop,zihintntl,zihintpause,zimop,zabha,zacas,zawrs,zcb,"
    "zcmop,zfa,zfh,svinval,sstc"
)
PROLOGUE = ".option norvc\n.option norelax\n.text\n"


class ZigUnavailable(RuntimeError):
    """The wheel is missing or is another version than the pinned one."""


class AssemblyError(ValueError):
    """The assembler refused a text; the message is its own, with the line."""


@dataclass(frozen=True)
class Image:
    """Machine code linked at `at`, and the addresses of its labels."""

    at: int
    code: bytes
    symbols: dict[str, int]

    def __bytes__(self) -> bytes:
        return self.code


@cache
def _command() -> tuple[str, ...]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("ziglang")
    except PackageNotFoundError as e:
        raise ZigUnavailable(f"the wheel ziglang is not installed: pip install ziglang=={VERSION}") from e
    if found != VERSION:
        raise ZigUnavailable(f"ziglang {found} is installed, the pinned version is {VERSION}")
    return (sys.executable, "-m", "ziglang")


@cache
def _folder() -> Path:
    root = Path(os.environ.get("PYVIRT_TEST_CACHE") or Path(tempfile.gettempdir()) / f"pyvirt-zig-{os.getuid()}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return root


def _run(*args: str) -> None:
    root = _folder()
    env = dict(os.environ, ZIG_LOCAL_CACHE_DIR=str(root / "zig"), ZIG_GLOBAL_CACHE_DIR=str(root / "zig"))
    done = subprocess.run([*_command(), *args], capture_output=True, text=True, env=env, timeout=120, cwd=root)
    if done.returncode:
        raise AssemblyError(done.stderr.strip() or f"zig {args[0]} ended with {done.returncode}")


def assemble(text: str, march: str = MARCH, at: int = 0x8000_0000) -> Image:
    """Assemble and link a text at an address.

    The text starts uncompressed and without linker relaxation; it may switch with `.option rvc`. All goes to one
    section, so code and data stay in the order written. Raises AssemblyError with the assembler's message.
    """
    whole = PROLOGUE + text + "\n"
    key = hashlib.sha256(f"{VERSION}\0{march}\0{at}\0{whole}".encode()).hexdigest()[:32]
    elf = _folder() / f"{key}.elf"
    if not elf.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
            source, obj, out = (Path(scratch) / n for n in ("a.s", "a.o", "a.elf"))
            source.write_text(whole)
            cpu = "generic_rv64" + "".join(f"+{e}" for e in march.split(",") if e)
            _run("cc", "-target", "riscv64-freestanding", f"-mcpu={cpu}", "-g0", "-c", str(source), "-o", str(obj))
            _run("ld.lld", f"-Ttext={at:#x}", f"--entry={at:#x}", "--no-relax", str(obj), "-o", str(out))
            out.replace(elf)  # two test processes may assemble the same text
    return _read(elf, at)


def _read(path: Path, at: int) -> Image:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as stream:
        elf = ELFFile(stream)
        code = elf.get_section_by_name(".text").data()
        table = elf.get_section_by_name(".symtab")
        symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s.name} if table else {}
    return Image(at=at, code=code, symbols=symbols)


def compressed(line: str) -> str:
    """Return the line, with the assembler's compressed encodings switched on around it if it names one (`c.addi`)."""
    return f".option push; .option arch, +c, +zcb, +zcmop; {line}; .option pop" if line.startswith("c.") else line


def encodings(lines: list[str], march: str = MARCH) -> list[bytes]:
    """Return the machine code of each line on its own, in one call of the assembler.

    A line may hold one instruction, or several separated by `;`. The code is linked at 0x80000000, so pc-relative
    operands must be written with `.`. Raises AssemblyError if any line is refused, naming its line in the text.
    """
    text = "".join(f"pyv_{i}: {compressed(line)}\n" for i, line in enumerate(lines)) + f"pyv_{len(lines)}:\n"
    image = assemble(text, march)
    ends = [image.symbols[f"pyv_{i}"] - image.at for i in range(len(lines) + 1)]
    return [image.code[a:b] for a, b in itertools.pairwise(ends)]
