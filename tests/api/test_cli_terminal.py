"""`pyvirt run` with a keyboard or a pipe: keys reach the guest, Ctrl-A works, the terminal is always given back."""
from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvirt.command.terminal import Keys
from tests.api.cli_guests import ECHO, assemble, spawn

SECONDS = 20.0


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble(ECHO, tmp_path_factory.mktemp("echo") / "echo.bin")


class Screen:
    """A command at a terminal of its own."""

    def __init__(self, *args: object) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        # A session of its own whose controlling terminal this is, as a shell would have given it.
        self.process = spawn(*args, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
                             preexec_fn=self._take_terminal)
        self.text = b""

    def _take_terminal(self) -> None:
        import fcntl
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def wait_for(self, what: bytes) -> None:
        """Read until `what` has come, and drop everything up to its end."""
        end = time.monotonic() + SECONDS
        while what not in self.text:
            assert time.monotonic() < end, self.text
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                self.text += os.read(self.master, 4096)
        self.text = self.text[self.text.index(what) + len(what):]

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def end(self) -> int:
        """Wait for the command and return its exit code; the terminal must be as it was."""
        code = self.process.wait(SECONDS)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen(request: pytest.FixtureRequest, echo: Path) -> Iterator[Screen]:
    made = Screen("run", echo, *getattr(request, "param", ()))
    yield made
    made.close()


def test_keys_reach_the_guest_and_its_end_gives_the_terminal_back(screen: Screen) -> None:
    screen.wait_for(b"Ctrl-A x leaves")
    screen.wait_for(b"HELLO")
    assert screen.raw
    screen.type(b"a")
    screen.wait_for(b"[a]")
    screen.type(b"\x03")       # Ctrl-C is the guest's
    screen.wait_for(b"[\x03]")
    screen.type(b"\x01a")
    screen.wait_for(b"[\x01]")
    screen.type(b"\x01h")
    screen.wait_for(b"Ctrl-A x  leave")
    screen.type(b"\x01s")
    screen.wait_for(b"<Machine virt-1")
    screen.type(b"f")
    assert screen.end() == 3


def test_ctrl_a_x_leaves(screen: Screen) -> None:
    screen.wait_for(b"HELLO")
    screen.type(b"l\x01x")     # a guest that is busy too
    screen.wait_for(b"left by Ctrl-A x")
    assert screen.end() == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("typed", [b"a", b"l"])
def test_signals_give_the_terminal_back(screen: Screen, number: int, code: int, typed: bytes) -> None:
    screen.wait_for(b"HELLO")
    screen.type(typed)
    if typed == b"a":
        screen.wait_for(b"[a]")
    else:
        time.sleep(0.2)
    assert screen.raw
    screen.process.send_signal(number)
    assert screen.end() == code


def test_hanging_up_ends_it(screen: Screen) -> None:
    screen.wait_for(b"HELLO")
    os.close(screen.slave)
    os.close(screen.master)
    screen.master, screen.slave = os.openpty()
    assert screen.process.wait(SECONDS) in (129, 130)


def test_after_being_stopped_the_terminal_is_raw_again(screen: Screen) -> None:
    screen.wait_for(b"HELLO")
    screen.process.send_signal(signal.SIGSTOP)
    termios.tcsetattr(screen.slave, termios.TCSANOW, screen.before)
    screen.process.send_signal(signal.SIGCONT)
    end = time.monotonic() + SECONDS
    while not screen.raw:
        assert time.monotonic() < end
        time.sleep(0.02)
    screen.type(b"q")
    assert screen.end() == 0


@pytest.mark.parametrize("screen", [("--expect", "HELLO", "--send", "1")], indirect=True)
def test_typing_goes_on_behind_a_script(screen: Screen) -> None:
    screen.wait_for(b"[1]")
    screen.type(b"2")
    screen.wait_for(b"[2]")
    screen.type(b"q")
    assert screen.end() == 0


@pytest.mark.parametrize("screen", [("--expect", "never")], indirect=True)
def test_a_script_leaves_the_terminal_alone(screen: Screen) -> None:
    screen.wait_for(b"HELLO")
    assert screen.end() == 1


@pytest.mark.parametrize("screen", [("--expect", "HELLO", "--send", "l", "--expect", "never")], indirect=True)
def test_ctrl_c_interrupts_a_script(screen: Screen) -> None:
    screen.wait_for(b"HELLO")
    time.sleep(0.2)
    began = time.monotonic()
    screen.type(b"\x03")       # the terminal is not raw: its driver makes it a SIGINT
    screen.wait_for(b"pyvirt: interrupted")
    assert screen.end() == 130
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("screen", [("--timeout", "0.3")], indirect=True)
def test_a_limit_ends_a_guest_that_waits_for_keys(screen: Screen) -> None:
    screen.wait_for(b"a limit was reached")
    assert screen.end() == 124


def test_a_guest_that_waits_for_keys_takes_no_time_of_the_host(screen: Screen) -> None:
    def used() -> float:
        fields = Path(f"/proc/{screen.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    screen.wait_for(b"HELLO")
    before = used()
    time.sleep(1.0)
    assert used() - before <= 0.05
    screen.type(b"a")
    screen.wait_for(b"[a]")


def test_a_guest_with_a_timer_neither_runs_ahead_nor_takes_much(tmp_path: Path) -> None:
    """A tick of 10 ms of its own must take that long while someone may type."""
    ticking = assemble("""
        li      s0, 0x2004000
        li      s1, 0x10000000
        li      t0, 0x80
        csrs    mie, t0
    2:  li      s2, 100
    1:  rdtime  t1
        li      t2, 100000
        add     t1, t1, t2
        sd      t1, 0(s0)
        wfi
        addi    s2, s2, -1
        bnez    s2, 1b
        li      t0, '.'
        sb      t0, 0(s1)
        j       2b
    """, tmp_path / "ticking.bin")
    screen = Screen("run", ticking)
    try:
        screen.wait_for(b".")
        began = time.monotonic()
        screen.wait_for(b".")
        screen.wait_for(b".")
        assert time.monotonic() - began > 1.7
        fields = Path(f"/proc/{screen.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        assert (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") < 2.0
        screen.type(b"\x01x")
        assert screen.end() == 130
    finally:
        screen.close()


# -- pipes
def piped(echo: Path, data: bytes, *args: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    pipe = subprocess.PIPE
    process = spawn("run", echo, *args, stdin=pipe, stdout=pipe, stderr=pipe, **options)
    out, err = process.communicate(data, SECONDS)
    return subprocess.CompletedProcess((), process.returncode, out, err)


def test_a_pipe_is_typed_and_nothing_in_it_is_special(echo: Path) -> None:
    done = piped(echo, b"a\x01xb\x03q")
    assert done.returncode == 0
    assert done.stdout == b"HELLO\n[a][\x01][x][b][\x03]"


def test_a_long_pipe_arrives_whole(echo: Path) -> None:
    data = bytes(range(1, 97)) * 400
    done = piped(echo, data + b"q")
    assert done.returncode == 0
    assert done.stdout == b"HELLO\n" + b"".join(b"[%c]" % byte for byte in data)


def test_a_pipe_that_ends_lets_the_guest_run_on(echo: Path) -> None:
    done = piped(echo, b"a")
    assert done.returncode == 1
    assert done.stdout == b"HELLO\n[a]"
    assert b"nothing can ever happen again" in done.stderr


def test_a_pipe_that_stays_open_is_waited_for(echo: Path) -> None:
    process = spawn("run", echo, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 100) == b"HELLO\n"
    time.sleep(0.5)
    process.stdin.write(b"q")
    process.stdin.flush()
    assert process.wait(SECONDS) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_script_does_not_read_a_pipe(echo: Path) -> None:
    done = piped(echo, b"zzz", "--expect", "HELLO", "--send", "a", "--expect", "]")
    assert (done.returncode, done.stdout) == (0, b"HELLO\n[a]")


def test_without_standard_input(echo: Path) -> None:
    process = spawn("run", echo, "--send", "q", stdout=subprocess.PIPE, preexec_fn=lambda: os.close(0))
    assert process.communicate(timeout=SECONDS)[0] == b"HELLO\n"
    assert process.returncode == 0


def test_without_standard_output(echo: Path) -> None:
    process = spawn("run", echo, "--send", "f", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    preexec_fn=lambda: os.close(1))
    assert process.communicate(timeout=SECONDS)[1] == b""
    assert process.returncode == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(echo: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = spawn("run", echo, "--send", "q", stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
        err = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 1
    assert err == b"pyvirt: No space left on device\n"


def test_a_reader_that_goes_away_ends_it_quietly(echo: Path) -> None:
    process = spawn("run", echo, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 100)
    process.stdout.close()
    process.stdin.write(b"a")
    process.stdin.flush()
    assert process.wait(SECONDS) == 1
    assert b"Traceback" not in process.stderr.read()
    process.stdin.close()
    process.stderr.close()


def test_keys() -> None:
    seen: list[str] = []
    keys = Keys(show=seen.append)
    assert keys.feed(b"ab\x01") == b"ab"
    assert keys.feed(b"ac\x01\x01\x01hx\x01z") == b"\x01c\x01x"
    assert seen == ["help"]
    assert keys.feed(b"q\x01xrest") == b"q"
    assert keys.leave
