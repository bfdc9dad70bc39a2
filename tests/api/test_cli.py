"""`pyvirt run`: steps, exit codes, limits, statistics, and every wrong use it refuses."""
from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvirt import asm
from pyvirt.command import cli
from pyvirt.command.script import Expect, Send, parse_step, unescape
from pyvirt.errors import HostError
from pyvirt.fetch import pull
from tests.api.cli_guests import BASE, ECHO, Command, assemble
from tests.api.test_loader import elf


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble(ECHO, tmp_path_factory.mktemp("echo") / "echo.bin")


@pytest.fixture
def pyvirt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


# -- exit codes
def test_all_expectations_met_is_0(pyvirt: Command, echo: Path) -> None:
    done = pyvirt("run", echo, "--expect", "HELLO", "--send", "a", "--expect", r"\[a\]")
    assert (done.code, done.err) == (0, "")
    assert done.out == "HELLO\n[a]"


def test_steps_run_in_the_order_given_on_the_command_line(pyvirt: Command, echo: Path) -> None:
    done = pyvirt("run", "--send", "1", "--expect", "[1", "--expect=]", "--send=2", echo, "--expect", r"\[2\]",
                  "--send", "3", "--send", "4", "--expect", r"\[3\]\[4\]")
    assert done.code == 2  # "[1" is no regular expression
    assert "'[1'" in done.err
    done = pyvirt("run", "--send", "1", "--expect", r"\[1", "--expect=]", "--send=2", echo, "--expect", r"\[2\]",
                  "--send", "3", "--send", "4", "--expect", r"\[3\]\[4\]")
    assert done.code == 0
    assert done.out == "HELLO\n[1][2][3][4]"


def test_an_expectation_sees_only_what_came_after_the_one_before(pyvirt: Command, echo: Path) -> None:
    done = pyvirt("run", echo, "--expect", "HELLO", "--expect", "HELLO")
    assert done.code == 1
    assert "--expect 'HELLO' (2 of 2) was not met" in done.err


def test_guest_that_ends_before_a_match_is_1_with_the_tail(pyvirt: Command, echo: Path) -> None:
    done = pyvirt("run", echo, "--console", "none", "--expect", "HELLO", "--send", "abq", "--expect", "never")
    assert (done.code, done.out) == (1, "")
    assert "HELLO\n[a][b]" in done.err
    assert "'never' (2 of 2) was not met: the guest ended (poweroff, exit code 0)" in done.err


def test_guest_that_waits_for_input_that_does_not_come_is_1(pyvirt: Command, echo: Path) -> None:
    done = pyvirt("run", echo, "--expect", "never")
    assert done.code == 1
    assert "nothing can ever happen again" in done.err


def test_guest_kept_awake_by_its_own_timer_only_is_1(pyvirt: Command, tmp_path: Path) -> None:
    ticking = assemble("""
        li      s0, 0x2004000
        li      t0, 0x80
        csrs    mie, t0
    1:  rdtime  t1
        li      t2, 5000000     # half a second
        add     t1, t1, t2
        sd      t1, 0(s0)
        wfi
        j       1b
    """, tmp_path / "ticking.bin")
    stats = tmp_path / "s.json"
    done = pyvirt("run", ticking, "--expect", "never", "--stats", stats)
    assert done.code == 1
    assert "the guest waits for input: for 300 of its seconds it idled" in done.err
    assert "nothing was printed on the console" in done.err
    assert json.loads(stats.read_text())["stop"] == "idle"


@pytest.mark.parametrize("option", [("--max-instructions", "200_000"), ("--timeout", "0.2")])
@pytest.mark.parametrize("steps", [(), ("--expect", "HELLO", "--send", "l"), ("--send", "l", "--expect", "never")])
def test_limits_are_124(pyvirt: Command, echo: Path, tmp_path: Path, option: tuple[str, ...],
                        steps: tuple[str, ...]) -> None:
    forever = assemble("1: j 1b", tmp_path / "forever.bin")
    stats = tmp_path / "s.json"
    done = pyvirt("run", echo if steps else forever, *steps, *option, "--stats", stats)
    assert done.code == 124
    found = json.loads(stats.read_text())
    assert found["stop"] == ("timeout" if option[0] == "--timeout" else "instructions")
    if option[0] == "--max-instructions":
        assert found["instructions"] == 200_000
    assert found["exit_code"] is None


@pytest.mark.parametrize(("typed", "code"), [("q", 0), ("f", 3), ("r", 0)])
def test_without_expect_the_guests_own_code(pyvirt: Command, echo: Path, typed: str, code: int) -> None:
    done = pyvirt("run", echo, "--send", typed)
    assert done.code == code
    assert ("starts nothing again" in done.err) == (typed == "r")


def test_a_code_no_process_can_give_is_no_success(pyvirt: Command, tmp_path: Path) -> None:
    failing = assemble("li t0, 0x100000\n li t1, 0x1003333\n sw t1, 0(t0)\n 1: j 1b", tmp_path / "fail.bin")
    stats = tmp_path / "s.json"
    assert pyvirt("run", failing, "--stats", stats).code == 255
    assert json.loads(stats.read_text())["exit_code"] == 256


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_elf_with_htif_prints_and_gives_its_code(pyvirt: Command, tmp_path: Path,
                                                    compress: Callable[[bytes], bytes]) -> None:
    code = bytes(asm("""
        la      t0, tohost
        li      t1, 0x0101000000000048      # console, write, 'H'
        sd      t1, 0(t0)
        li      t1, 15                      # exit with 7
        sd      t1, 0(t0)
    1:  j       1b
        .balign 64
    tohost: .dword 0
    """, at=BASE))
    program = tmp_path / "htif.elf"
    program.write_bytes(compress(elf([(BASE, code, len(code))], symbols={"tohost": BASE + 64})))
    done = pyvirt("run", program)
    assert (done.code, done.out) == (7, "H")
    assert pyvirt("run", program, "--expect", "H").code == 0
    assert pyvirt("run", program, "--expect", "I").code == 1


def test_all_met_is_0_whatever_the_guest_does_after(pyvirt: Command, echo: Path) -> None:
    assert pyvirt("run", echo, "--expect", "HELLO", "--send", "f").code == 0


def test_a_guest_that_stops_by_itself_is_1(pyvirt: Command, echo: Path) -> None:
    done = pyvirt("run", echo, "--send", "t")
    assert done.code == 1
    assert "loops in traps" in done.err
    done = pyvirt("run", echo)
    assert done.code == 1
    assert "nothing can ever happen again" in done.err


# -- what it writes
def test_stats_are_the_same_twice(pyvirt: Command, echo: Path, tmp_path: Path) -> None:
    found = []
    for name in ("a.json", "b.json"):
        assert pyvirt("run", echo, "--expect", "HELLO", "--send", "xq", "--stats", tmp_path / name).code == 0
        found.append(json.loads((tmp_path / name).read_text()))
    assert list(found[0]) == ["instructions", "seconds", "mips", "stop", "pc", "exit_code", "digest"]
    assert found[0]["stop"] == "exit"
    assert found[0]["exit_code"] == 0
    assert found[0]["instructions"] > 50
    assert int(found[0]["pc"], 16) > 0
    assert len(found[0]["digest"]) == 64
    for each in found:
        del each["seconds"], each["mips"]
    assert found[0] == found[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_console_into_a_file(pyvirt: Command, echo: Path, tmp_path: Path) -> None:
    done = pyvirt("run", echo, "--console", tmp_path / "log", "--send", r"\x80q", "--expect", "]")
    assert (done.code, done.out) == (0, "")
    assert (tmp_path / "log").read_bytes() == b"HELLO\n[\x80]"


def test_stats_to_a_pipe(pyvirt: Command, echo: Path) -> None:
    read, write = os.pipe()
    try:
        assert pyvirt("run", echo, "--send", "q", "--stats", f"/dev/fd/{write}").code == 0
        assert json.loads(os.read(read, 65536))["stop"] == "exit"
    finally:
        os.close(read)
        os.close(write)


# -- disks and debian
def test_two_disks_and_their_modes(pyvirt: Command, tmp_path: Path) -> None:
    for name in ("a.img", "b,1.img"):
        (tmp_path / name).write_bytes(bytes(1 << 16))
    # Prints the device ids of the first three slots.
    ids = assemble("""
        li      s0, 0x10001008
        li      s1, 0x10000000
        li      s2, 3
    1:  lw      t0, 0(s0)
        addi    t0, t0, '0'
        sb      t0, 0(s1)
        li      t1, 0x1000
        add     s0, s0, t1
        addi    s2, s2, -1
        bnez    s2, 1b
        wfi
    """, tmp_path / "ids.bin")
    done = pyvirt("run", ids, "--disk", tmp_path / "a.img", "--disk", f"{tmp_path / 'b,1.img'},mode=direct",
                  "--expect", "220")
    assert done.code == 0
    done = pyvirt("run", ids, "--disk", tmp_path / "a.img", "--disk", tmp_path / "b,1.img", "--expect", "220")
    assert done.code == 0


def test_debian_that_was_not_pulled(pyvirt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVIRT_CACHE", str(tmp_path / "empty"))
    done = pyvirt("run", "debian")
    assert done.code == 2
    assert str(tmp_path / "empty") in done.err
    assert "pyvirt pull debian" in done.err


def test_debian_is_what_was_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kernel", "initrd", "opensbi", "rootfs.ext4", "mine"):
        (tmp_path / name).write_bytes(bytes(4096))
    cached = pull.Pulled(
        folder=tmp_path, kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", opensbi=tmp_path / "opensbi",
        rootfs=tmp_path / "rootfs.ext4", suite="forky", release="7", packages=("lua",), versions={}, checksums={})
    monkeypatch.setattr(pull, "cached", lambda: cached)
    guest = cli._guest("debian", None, str(tmp_path / "mine"), "quiet", "builtin", None)
    assert guest.load == {"kernel": cached.kernel, "initrd": str(tmp_path / "mine"), "dtb": None, "firmware": None,
                          "cmdline": "console=ttyS0 cryptomgr.notests root=/dev/vda quiet"}
    assert [(disk.path, disk.mode) for disk in guest.disks] == [(cached.rootfs, "overlay")]
    guest.disks[0].close()


# -- the other commands
def test_version_doctor_and_help(pyvirt: Command) -> None:
    assert pyvirt("--version").out.startswith("pyvirt 0.")
    doctor = pyvirt("doctor")
    assert "core" in doctor.out
    assert "apt-get" in doctor.out
    usage = pyvirt("run", "--help")
    assert usage.code == 0
    for option in ("--kernel", "--initrd", "--append", "--firmware", "--dtb", "--isa", "--harts", "--ram", "--disk",
                   "--expect", "--send", "--max-instructions", "--timeout", "--console", "--stats"):
        assert option in usage.out


def test_pull_hands_over_its_options_and_fails_with_1(pyvirt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(packages: list[str], *, mirror: str | None, refresh: bool, say: Callable[[str], None]) -> None:
        calls.append((packages, mirror, refresh))
        say("reading")
        if mirror is not None:
            raise HostError("no Debian suite could be pulled")

    monkeypatch.setattr(pull, "pull", fake)
    done = pyvirt("pull", "debian", "--with", "lua5.4,file", "--refresh")
    assert (done.code, done.err) == (0, "reading\n")
    done = pyvirt("pull", "debian", "--mirror", "http://mirror.invalid")
    assert (done.code, done.err) == (1, "reading\npyvirt: no Debian suite could be pulled\n")
    assert calls == [(["lua5.4", "file"], None, True), ([], "http://mirror.invalid", False)]


# -- wrong use: exit 2, and a message with the name, the value and what is allowed
WRONG = [
    (("run",), ("nothing to run", "PROGRAM", "--kernel")),
    (("run", "no-such-file"), ("PROGRAM", "'no-such-file'", "allowed: a file, or debian")),
    (("run", "."), ("PROGRAM", "'.'", "a directory", "allowed")),
    (("run", "ECHO", "--kernel", "ECHO"), ("PROGRAM", "--kernel", "allowed: one of them")),
    (("run", "--kernel", "nope"), ("--kernel", "'nope'", "allowed: a file")),
    (("run", "--kernel", "ECHO", "--initrd", "nope"), ("--initrd", "'nope'", "allowed: a file")),
    (("run", "--firmware", "nope"), ("--firmware", "'nope'", "allowed: builtin, or a file")),
    (("run", "--kernel", "ECHO", "--dtb", "nope"), ("--dtb", "'nope'", "allowed: a file")),
    (("run", "--kernel", "ECHO", "--dtb", "ECHO"), ("echo.bin", "37040010", "expected the device-tree magic d00dfeed")),
    (("run", "--firmware", "ECHO", "--append", "x"), ("--append", "'x'", "allowed", "--kernel")),
    (("run", "--firmware", "ECHO", "--initrd", "ECHO"), ("--initrd", "echo.bin", "allowed", "--kernel")),
    (("run", "ECHO", "--isa", "rv32g"), ("--isa", "'rv32g'", "rv64i or rv64g")),
    (("run", "ECHO", "--isa", "rv64gc_zbz"), ("--isa", "'zbz'", "allowed", "zba")),
    (("run", "ECHO", "--harts", "0"), ("--harts", "0", "1...64")),
    (("run", "ECHO", "--harts", "two"), ("--harts", "'two'", "allowed")),
    (("run", "ECHO", "--ram", "0"), ("--ram", "'0'", "allowed: 4K")),
    (("run", "ECHO", "--ram", "12Q"), ("--ram", "'12Q'", "K, M, G or T")),
    (("run", "ECHO", "--ram", "5000"), ("--ram", "'5000'", "steps of 4K")),
    (("run", "ECHO", "--disk", "nope"), ("--disk", "'nope'", "allowed: a raw image")),
    (("run", "ECHO", "--disk", "nope,mode=fast"), ("--disk", "mode=fast", "allowed: mode=direct, mode=overlay")),
    (("run", "ECHO", "--disk", "nope,ro=1"), ("--disk", "ro=1", "allowed: mode=direct, mode=overlay")),
    (("run", "ECHO", "--disk", "ECHO"), ("disk", "echo.bin", "multiple of 512")),
    (("run", "ECHO", "--expect", "("), ("--expect", "'('", "allowed")),
    (("run", "ECHO", "--expect", "x*"), ("--expect", "'x*'", "empty", "allowed")),
    (("run", "ECHO", "--send", r"a\q"), ("--send", r"\q", "position 1", r"allowed: \n")),
    (("run", "ECHO", "--send", "a\\"), ("--send", "position 1", r"allowed: \n")),
    (("run", "ECHO", "--send", r"\400"), ("--send", r"\400", r"up to \377")),
    (("run", "ECHO", "--max-instructions", "-1"), ("--max-instructions", "-1", "allowed: 0 to")),
    (("run", "ECHO", "--max-instructions", "1.5"), ("--max-instructions", "'1.5'", "allowed")),
    (("run", "ECHO", "--timeout", "-1"), ("--timeout", "-1", "allowed: seconds")),
    (("run", "ECHO", "--timeout", "nan"), ("--timeout", "nan", "allowed: seconds")),
    (("run", "ECHO", "--timeout", "soon"), ("--timeout", "'soon'", "allowed: seconds")),
    (("run", "ECHO", "--console", "/no/such"), ("--console", "'/no/such'", "allowed: stdio, none, a file")),
    (("run", "ECHO", "--stats", "/no/such/s.json"), ("--stats", "'/no/such/s.json'", "allowed: a file")),
    (("run", "ECHO", "--stats", "/tmp"), ("--stats", "'/tmp'", "allowed: a file")),
    (("run", "ECHO", "--frob"), ("--frob",)),
    (("run", "ECHO", "--ram"), ("--ram", "requires an argument")),
    (("run", "ECHO", "more"), ("more",)),
    (("frob",), ("'frob'", "allowed: run, pull, demo, doctor")),
    (("pull", "fedora"), ("'fedora'", "allowed: debian")),
    (("pull", "debian", "--with", "No_Package"), ("--with", "'No_Package'", "allowed")),
]


@pytest.mark.parametrize(("args", "parts"), WRONG, ids=lambda value: " ".join(value))
def test_wrong_use_is_2_and_says_what_is_allowed(pyvirt: Command, echo: Path, args: tuple[str, ...],
                                                 parts: tuple[str, ...]) -> None:
    done = pyvirt(*[str(echo) if arg == "ECHO" else arg for arg in args])
    assert done.code == 2, done.err
    assert done.out == ""
    for part in parts:
        assert part in done.err
    assert "Traceback" not in done.err
    if done.err.startswith("pyvirt: "):
        assert done.err.count("\n") == 1


# -- steps
@pytest.mark.parametrize(("text", "data"), [
    (r"\n\r\t\a\b\f\v\e", b"\n\r\t\a\b\f\v\x1b"), (r"\\n", b"\\n"), (r"\x41\x4g", b"A\x04g"),
    (r"\0\12\0071", b"\0\n\x071"),
    (r"\u00e9é", b"\xc3\xa9\xc3\xa9"), ("\udc80", b"\x80"), (r"\"\'\?", b"\"'?"), ("", b""),
])
def test_c_escapes(text: str, data: bytes) -> None:
    assert unescape(text) == data


def test_steps_are_values() -> None:
    assert parse_step("expect", "# ") == Expect("# ")
    assert parse_step("expect", "# ").until == "# "
    assert parse_step("send", r"a\n") == Send(b"a\n")
    assert parse_step("expect", "^a").until != "^a"
