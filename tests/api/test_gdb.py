"""The debugger's door: packets, a session over a socket, what a hostile peer can not do, and gdb itself."""
from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt.gdb.packets import INTERRUPT, SIZE_MAX, Decoder, ProtocolError, frame
from tests.needs import guest_image, need_program

BASE = 0x8000_0000
DATA = BASE + 0x1000
PROGRAM = f"""
        li      a0, 0
        li      a1, {DATA:#x}
loop:   addi    a0, a0, 1
        sd      a0, 0(a1)
        ld      a2, 0(a1)
        j       loop
"""
LOOP = BASE + 0x10     # li of a 33-bit number takes three instructions


# -- packets
def test_frames_and_what_comes_out_of_them_again() -> None:
    random.seed(1)
    for _ in range(200):
        data = random.randbytes(random.randrange(200))
        stream = b"+" + frame(data) + b"-" + INTERRUPT + frame(b"#}$*")
        decoder, found = Decoder(), []
        while stream:
            part = random.randrange(1, 20)
            found += decoder.feed(stream[:part])
            stream = stream[part:]
        assert found == [data, INTERRUPT, b"#}$*"]
        assert decoder.answer == b"++"


def test_a_wrong_checksum_is_asked_for_again() -> None:
    decoder = Decoder()
    assert decoder.feed(b"$g#00" + frame(b"?")) == [b"?"]
    assert decoder.answer == b"-+"


def test_a_packet_without_an_end_is_refused() -> None:
    decoder = Decoder()
    decoder.feed(b"$" + bytes(SIZE_MAX))
    with pytest.raises(ProtocolError, match="PacketSize"):
        decoder.feed(bytes(SIZE_MAX))


# -- a peer
class Peer:
    """A debugger of few words."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.decoder = Decoder()
        self._ready: list[bytes] = []

    def send(self, packet: bytes) -> None:
        self.socket.sendall(frame(packet))

    def receive(self) -> bytes:
        while not self._ready:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the server closed the connection")
            self._ready += self.decoder.feed(data)
        return self._ready.pop(0)

    def ask(self, packet: bytes) -> bytes:
        self.send(packet)
        return self.receive()

    def monitor(self, line: str) -> str:
        return bytes.fromhex(self.ask(b"qRcmd," + line.encode().hex().encode()).decode()).decode()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with pv.Machine(board="bare", ram="1M") as machine:
        machine.load(pv.asm(PROGRAM))
        yield machine


@pytest.fixture
def server(vm: pv.Machine) -> Iterator[pv.GdbServer]:
    with vm.gdb() as server:
        yield server


def word(value: int) -> bytes:
    return value.to_bytes(8, "little").hex().encode()


def test_registers_and_memory(vm: pv.Machine, server: pv.GdbServer) -> None:
    vm.hart.fa0 = 0x3FF0_0000_0000_0000
    with Peer(server.port) as peer:
        assert b"PacketSize=" in peer.ask(b"qSupported:swbreak+")
        assert peer.ask(b"?") == b"T05thread:1;"
        everything = peer.ask(b"g")
        assert len(everything) == 65 * 16
        assert everything[32 * 16:33 * 16] == word(BASE)
        assert peer.ask(b"p%x" % (33 + 10)) == word(0x3FF0_0000_0000_0000)
        assert peer.ask(b"P1f=" + word(7)) == b"OK"
        assert peer.ask(b"p1f") == word(7)
        assert peer.ask(b"P20=" + word(BASE + 1)).startswith(b"E")      # pc is even
        assert peer.ask(b"p%x" % (65 + 0x300)) == word(0xA_0000_0000)    # mstatus
        assert peer.ask(b"pfff").startswith(b"E")                        # no such CSR
        assert peer.ask(b"m%x,8" % BASE) == vm.mem.read(BASE, 8).hex().encode()
        assert peer.ask(b"M%x,4:01020304" % DATA) == b"OK"
        assert peer.ask(b"X%x,4:" % (DATA + 4) + b"}*#$") == b"OK"
        assert vm.mem.read(DATA, 8) == bytes((1, 2, 3, 4)) + b"}*#$"
        assert peer.ask(b"m0,8") == b"E0e"
        assert peer.ask(b"m%x,10" % (BASE + (1 << 20) - 8)) == b"00" * 8    # as far as there is memory
        assert peer.ask(b"D") == b"OK"
    assert server.wait(10)
    assert not server.killed


def test_the_target_describes_its_registers(vm: pv.Machine, server: pv.GdbServer) -> None:
    with Peer(server.port) as peer:
        text, at = b"", 0
        while not text.endswith(b"</target>\n"):
            part = peer.ask(b"qXfer:features:read:target.xml:%x,200" % at)
            assert part[:1] in (b"m", b"l")
            text += part[1:]
            at += len(part) - 1
        names = re.findall(r'<reg name="(\w+)" bitsize="(\d+)" type="\w+" regnum="(\d+)"', text.decode())
        numbers = {name: int(number) for name, _, number in names}
        assert [numbers[n] for n in ("zero", "a0", "pc", "fa0", "fcsr", "mstatus", "hgatp", "priv")] == \
            [0, 10, 32, 43, 68, 65 + 0x300, 65 + 0x680, 4161]
        assert set(vm.hart.csr) <= set(numbers)
        assert peer.ask(b"qXfer:features:read:other.xml:0,100") == b"E00"


def test_breakpoints_watchpoints_and_steps(vm: pv.Machine, server: pv.GdbServer) -> None:
    with Peer(server.port) as peer:
        assert peer.ask(b"vCont?") == b"vCont;c;C;s;S"
        assert peer.ask(b"vCont;s:1") == b"T05thread:1;"
        assert vm.icount == 1
        assert peer.ask(b"Z0,%x,4" % LOOP) == b"OK"
        assert vm.mem.read(LOOP, 4) == pv.asm("addi a0, a0, 1")  # nothing was written there
        assert peer.ask(b"c") == b"T05thread:1;swbreak:;"
        assert vm.hart.pc == LOOP
        assert peer.ask(b"c") == b"T05thread:1;swbreak:;"
        assert vm.hart.a0 == 1
        assert peer.ask(b"z0,%x,4" % LOOP) == b"OK"
        assert peer.ask(b"z0,%x,4" % LOOP).startswith(b"E")
        for kind, name, behind in ((2, b"watch", LOOP + 8), (3, b"rwatch", LOOP + 12), (4, b"awatch", LOOP + 8)):
            key = b"%d,%x,8" % (kind, DATA)
            assert peer.ask(b"Z" + key) == b"OK"
            before = vm.hart.a0
            assert peer.ask(b"c") == b"T05thread:1;%s:%x;" % (name, DATA)
            assert vm.hart.pc == behind
            assert vm.hart.a0 - before < 2
            assert peer.ask(b"z" + key) == b"OK"
        assert peer.ask(b"Z9,0,4") == b""
        assert peer.ask(b"Z0,%x,4" % (LOOP + 1)).startswith(b"E")


def test_an_interrupt_stops_it_also_at_once(vm: pv.Machine, server: pv.GdbServer) -> None:
    with Peer(server.port) as peer:
        peer.send(b"c")
        deadline = time.monotonic() + 30
        while vm._tenant.thread is None and time.monotonic() < deadline:
            time.sleep(0.001)
        with pytest.raises(pv.MachineBusy):
            vm.hart.a0  # noqa: B018
        peer.socket.sendall(INTERRUPT)
        assert peer.receive() == b"T02thread:1;"
        for _ in range(50):
            peer.socket.sendall(frame(b"c") + INTERRUPT)    # the stop may be asked for before the run has begun
            assert peer.receive() == b"T02thread:1;"


def test_debuggers_come_and_go(vm: pv.Machine, server: pv.GdbServer) -> None:
    with Peer(server.port) as peer:
        assert peer.ask(b"Z0,%x,4" % LOOP) == b"OK"
        peer.send(b"c")
        peer.receive()
        assert peer.ask(b"z0,%x,4" % LOOP) == b"OK"
        peer.send(b"c")     # and gone, while it runs
    with Peer(server.port) as peer:
        assert peer.ask(b"?") == b"T05thread:1;"
        assert peer.ask(b"vKill;1") == b"OK"
    assert server.wait(10)
    assert server.killed
    vm.run(instructions=10)


def test_harts_are_threads() -> None:
    with pv.Machine(board="bare", ram="1M", harts=3) as vm:
        vm.load(pv.asm("loop: addi a0, a0, 1\n j loop"))
        with vm.gdb() as server, Peer(server.port) as peer:
            assert peer.ask(b"qfThreadInfo") == b"m1,2,3"
            assert peer.ask(b"qsThreadInfo") == b"l"
            assert peer.ask(b"vCont;s:2") == b"T05thread:2;"
            assert vm.harts[1].a0 == 2  # it began with its number
            assert peer.ask(b"qC") == b"QC2"
            assert peer.ask(b"Hg3") == b"OK"
            assert peer.ask(b"pa") == word(vm.harts[2].a0)
            assert bytes.fromhex(peer.ask(b"qThreadExtraInfo,3").decode()) == b"hart 2, M"
            assert peer.ask(b"T4").startswith(b"E")


def test_monitor(vm: pv.Machine, server: pv.GdbServer) -> None:
    with Peer(server.port) as peer:
        assert "walk ADDRESS" in peer.monitor("help")
        assert "PMP allows the load" in peer.monitor(f"walk {BASE:#x}")
        assert peer.monitor("walk nowhere").startswith("walk: ")
        assert "arguments are not allowed" in peer.monitor("icount 1 2")
        assert "allowed: walk" in peer.monitor("quit")
        peer.ask(b"vCont;s:1")
        assert peer.monitor("snapshot here").startswith("<Snapshot here")
        peer.ask(b"vCont;s:1")
        assert peer.monitor("icount") == "2\n"
        assert peer.monitor("restore here").startswith("<Snapshot here")
        assert peer.monitor("icount") == "1\n"
        assert "here" in peer.monitor("history")
        assert "there is no snapshot" in peer.monitor("restore there")
        assert peer.monitor("phys on") == "memory is read and written at physical addresses\n"


def test_what_a_callback_raises_reaches_who_waits(vm: pv.Machine) -> None:
    with pv.Machine(board="bare", ram="1M") as vm:
        vm.load(pv.asm("ecall"))

        @vm.on_trap
        def hook(trap: pv.Trap) -> None:
            raise LookupError("mine")

        with vm.gdb() as server, Peer(server.port) as peer:
            peer.send(b"c")
            with pytest.raises(LookupError, match="mine"):
                server.wait(30)


def test_a_hostile_peer_only_loses_its_connection(vm: pv.Machine, server: pv.GdbServer) -> None:
    letters = b"?HTgGpPmMXZzcsDkqvQ!Abt"
    random.seed(7)
    packets = 0
    for _ in range(20):
        with Peer(server.port) as peer:
            for _ in range(60):
                body = bytes((random.choice(letters),)) + random.choice(
                    (random.randbytes(random.randrange(40)), b"%x,%x:%x" % tuple(random.getrandbits(70) for _ in "abc"),
                     b"Cont;s:%x" % random.getrandbits(80), b"Supported", b"RCmd,zz", b"Xfer:features:read:::"))
                if body[:1] in b"Dk" or body.startswith((b"vKill", b"c", b"vCont", b"s")):
                    body = b"m" + body[1:]      # the end, and running, are other tests'
                peer.socket.sendall(frame(body) if random.random() < 0.8 else random.randbytes(30).replace(b"\3", b""))
                packets += 1
            peer.socket.sendall(frame(b"g"))
            peer.socket.settimeout(0.05)
            try:
                while peer.socket.recv(1 << 16):
                    pass
            except (TimeoutError, ConnectionError):
                pass
    assert packets == 1200
    with Peer(server.port) as peer:
        assert peer.ask(b"?") == b"T05thread:1;"


def test_wrong_ports_are_refused(vm: pv.Machine, server: pv.GdbServer) -> None:
    with pytest.raises(pv.ConfigError, match=r"port is 70000; allowed: 0\.\.\.65535"):
        vm.gdb(port=70000)
    with pytest.raises(pv.HostError, match=f"port {server.port} of 127.0.0.1"):
        vm.gdb(port=server.port)


def test_closing_ends_it_while_the_machine_runs(vm: pv.Machine) -> None:
    server = vm.gdb()
    with Peer(server.port) as peer:
        peer.send(b"c")
        while vm._tenant.thread is None:
            time.sleep(0.001)
        server.close()
        server.close()
        assert server.closed
    assert not [t for t in threading.enumerate() if t.name.startswith("gdb")]
    vm.run(instructions=1)


# -- gdb
def gdb(port: int, *commands: str, timeout: float = 120) -> str:
    """Return what gdb prints."""
    program = need_program("gdb", "gdb-multiarch")
    lines = ["set pagination off", "set confirm off", "set remotetimeout 60", "set tcp connect-timeout 60",
             "set architecture riscv:rv64", f"target remote :{port}", *commands]
    arguments = [part for line in lines for part in ("-ex", line)]
    done = subprocess.run([program, "-q", "-nx", "-batch", *arguments], capture_output=True, text=True, timeout=timeout)
    return done.stdout + done.stderr


def test_gdb_debugs_a_program(vm: pv.Machine, server: pv.GdbServer) -> None:
    out = gdb(server.port, "info threads", f"break *{LOOP:#x}", "continue", "continue", "print $a0", "delete",
              f"watch *(long *){DATA:#x}", "continue", "continue", "print/x $mstatus", "print $a0 = 99", "stepi",
              "x/2i $pc", "monitor icount", "info registers fcsr")
    assert "Thread 1 (hart 0, M)" in out
    assert "Breakpoint 1, 0x0000000080000010 in ?? ()" in out
    assert "$1 = 1" in out
    assert re.search(r"Old value = 1\nNew value = 2\n", out)
    assert "$2 = 0xa00000000" in out
    assert "$3 = 99" in out
    assert re.search(r"=> 0x80000010:\s+add\s+a0,a0,1\n", out)
    assert re.search(r"fcsr\s+0x0\s", out)
    out = gdb(server.port, "print $a0", "detach")   # another, from where the first had left it
    assert "$1 = 99" in out
    assert server.wait(10)


@pytest.mark.slow
def test_gdb_debugs_linux_and_a_program_on_it() -> None:
    need_program("gdb", "gdb-multiarch")
    with pv.Machine() as vm:
        vm.load(kernel=guest_image("Image-7.2.zst"), initrd=guest_image("initramfs-mini.cpio.zst"),
                cmdline="console=ttyS0 cryptomgr.notests")
        vm.run(until=pv.when(lambda vm: vm.hart.world == "U", every=10_000))
        handler, user = int(vm.hart.csr.stvec), vm.hart.pc
        with vm.gdb() as server:
            out = gdb(server.port, f"break *{handler:#x}", "continue", "print/x $scause", "print $priv", "x/3i $pc",
                      "print/x $sepc", "delete", f"monitor walk {handler:#x} fetch",
                      "tbreak *$sepc", "continue", "print $priv", "stepi", "print $priv", "detach")
        assert f"Breakpoint 1, 0x{handler:016x} in" in out
        assert "$2 = 1" in out                                  # in S-mode
        assert re.search(r"allowed: pa 0x8\w+", out)            # how the kernel's own code is mapped
        assert "$4 = 0" in out                                  # back in the program
        assert user < 1 << 47
        vm.run(until="GUEST-INIT-OK")                           # none of it did any harm


def test_the_command_line_waits_for_a_debugger(tmp_path: Path) -> None:
    program = tmp_path / "p.bin"
    program.write_bytes(pv.asm("li a0, 1\nli a1, 2\nli t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\nloop: j loop"))
    with subprocess.Popen([sys.executable, "-m", "pyvirt", "run", str(program), "--gdb", "0"], stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"target remote :(\d+)", process.stderr.readline())
        assert found is not None
        with Peer(int(found[1])) as peer:
            assert peer.ask(b"vCont;s:1") == b"T05thread:1;"
            assert peer.ask(b"pa") == word(1)
            assert peer.ask(b"D") == b"OK"
        assert process.wait(60) == 0
