"""The server: a socket on this host, a thread that reads from it, and one that answers and runs the machine.

A debugger that goes away without a word leaves the machine standing, and another may come. Nothing that a peer sends
can do more than close its connection: packets are bounded, and so is what waits to be answered.
"""
from __future__ import annotations

import contextlib
import functools
import queue
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from pyvirt.errors import ClosedError, ConfigError, HostError
from pyvirt.gdb.packets import INTERRUPT, Decoder, ProtocolError, frame
from pyvirt.gdb.session import RunRaised, Session

if TYPE_CHECKING:
    from pyvirt.machine import Machine

WAITING_MAX = 64        # packets that a peer may send ahead of their answers
NO_ACKS = b"QStartNoAckMode"
HOST = "127.0.0.1"


class GdbServer:
    """Lets a debugger look at a machine, change it and run it: `target remote :PORT` in gdb. Made by `vm.gdb()`.

    It listens on this host only. While a debugger lets the machine run, others find it busy. `wait()` returns when a
    debugger has detached or killed (`killed`); another may come until `close()`, the end of `with`, or of the machine.
    """

    def __init__(self, vm: Machine, *, port: int = 0) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ConfigError(f"gdb: port is {port!r}; allowed: 0...65535, 0 for any that is free")
        self._vm = vm
        self._closed = threading.Event()
        self._left = threading.Event()
        self._peer: socket.socket | None = None
        self.killed = False
        self.error: BaseException | None = None     # what a callback of the user's raised out of a run
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((HOST, port))
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            raise HostError(error.errno, f"gdb: port {port} of {HOST} can't be listened on: {error.strerror}"
                            ) from error
        self._address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve, name=f"gdb:{self.port}", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._address[1]

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a debugger has detached or killed, or the server is closed; False after `timeout` seconds.

        Raises what a callback raised out of a run that the debugger had asked for.
        """
        left = self._left.wait(timeout)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return left

    def close(self) -> None:
        """Let go of the debugger and the port. A machine that runs is stopped. Closing twice is fine."""
        if not self._closed.is_set():
            self._closed.set()
            self._vm.stop()
            for end in (self._listener, self._peer):
                if end is not None:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._left.set()

    def __enter__(self) -> GdbServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GdbServer {HOST}:{self.port}{' closed' if self.closed else ''}>"

    # -- the thread that answers
    def _serve(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    self._peer, _ = self._listener.accept()
                except OSError:
                    return  # closed
                with self._peer as peer:
                    self._talk(peer)
        except ClosedError:
            return  # the machine was closed under it
        except RunRaised as raised:
            self.error = raised.__cause__
        finally:
            self._listener.close()
            self._left.set()

    def _talk(self, peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(self._vm)
        line = _Line(peer, self._vm)
        try:
            for packet, stops in line.packets():
                session.cancelled = functools.partial(line.asked_since, stops)
                if packet == NO_ACKS:
                    line.send(b"OK")
                    line.decoder.acks = False
                    continue
                answer = session.handle(packet)
                if answer is not None:
                    line.send(answer)
                if session.detached or session.killed:
                    self.killed = session.killed
                    self._left.set()
                    return
        except OSError:
            return  # the debugger is gone
        finally:
            line.end()


class _Line:
    """One connection: its reader thread turns bytes into packets, and an interrupt into a stop of the machine."""

    def __init__(self, peer: socket.socket, vm: Machine) -> None:
        self.decoder = Decoder()
        self._peer, self._vm = peer, vm
        self._waiting: queue.Queue[tuple[bytes, int] | None] = queue.Queue(WAITING_MAX)
        self._stops = 0     # how often a stop was asked for
        self._over = False
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="gdb reader", daemon=True)
        self._reader.start()

    def asked_since(self, stops: int) -> bool:
        """Say whether a stop was asked for behind a packet that came after so many of them."""
        return self._stops > stops

    def packets(self) -> Iterator[tuple[bytes, int]]:
        """Yield packets until the connection ends, each with how many stops had been asked for before it."""
        while (packet := self._waiting.get()) is not None:
            yield packet

    def send(self, data: bytes) -> None:
        with self._sending:
            self._peer.sendall(frame(data))

    def end(self) -> None:
        """Close the connection and wait for its reader."""
        self._over = True
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        while self._reader.is_alive():
            with contextlib.suppress(queue.Empty):
                self._waiting.get(timeout=0.05)     # a full queue would hold the reader

    def _read(self) -> None:
        try:
            while data := self._peer.recv(1 << 16):
                found = self.decoder.feed(data)
                if self.decoder.answer:
                    # Before the answers: a debugger throws away one that comes where it waits for this.
                    with self._sending:
                        self._peer.sendall(bytes(self.decoder.answer))
                    self.decoder.answer.clear()
                for packet in found:
                    if packet == INTERRUPT:
                        self._stops += 1
                        self._vm.stop()
                    elif not self._over:
                        self._waiting.put((packet, self._stops))
        except (OSError, ProtocolError):
            pass  # the connection is over, one way or the other
        finally:
            self._stops += 1    # what it let run has no one to stop it any more
            self._vm.stop()
            self._waiting.put(None)
