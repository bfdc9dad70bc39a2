"""Packets of GDB's remote serial protocol: framing, checksums, escapes, and the bound on what a peer may send.

Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol", "Overview". Knows nothing of machines.
"""
from __future__ import annotations

from pyvirt.errors import PyvirtError

SIZE_MAX = 0x4000       # bytes of one packet, told to the debugger as PacketSize
INTERRUPT = b"\x03"     # stands for the byte that a debugger sends between packets to stop what runs
_ESCAPED = b"#$}*"


class ProtocolError(PyvirtError, ValueError):
    """A peer does not speak the protocol: the connection is of no more use."""


def frame(data: bytes) -> bytes:
    """Return a packet with `data` escaped and its checksum behind it.

    >>> frame(b"OK")
    b'$OK#9a'
    """
    body = bytearray()
    for byte in data:
        if byte in _ESCAPED:
            body += bytes((0x7D, byte ^ 0x20))
        else:
            body.append(byte)
    return b"$%b#%02x" % (bytes(body), sum(body) & 0xFF)


class Decoder:
    """Cuts a stream into packets. `acks` says whether the peer still wants each acknowledged."""

    def __init__(self) -> None:
        self.acks = True
        self._held = bytearray()
        self.answer = bytearray()   # acknowledgements owed to the peer; whoever sends them clears it

    def feed(self, data: bytes) -> list[bytes]:
        """Return what is complete: the contents of packets, and INTERRUPT.

        Raises ProtocolError for a packet beyond SIZE_MAX; one with a wrong checksum is asked for again.
        """
        self._held += data
        found: list[bytes] = []
        while self._held:
            first = self._held[0]
            if first == 0x03:
                found.append(INTERRUPT)
                del self._held[:1]
                continue
            if first != 0x24:
                # Acknowledgements, and what is left of a packet that was cut off, up to the next start.
                del self._held[:self._next_start()]
                continue
            end = self._held.find(b"#")
            if end < 0 or len(self._held) < end + 3:
                if len(self._held) > 2 * SIZE_MAX:
                    raise ProtocolError(f"gdb: a packet of more than {SIZE_MAX} bytes; allowed: PacketSize")
                break
            body, digits = bytes(self._held[1:end]), bytes(self._held[end + 1:end + 3])
            del self._held[:end + 3]
            if digits.lower() != b"%02x" % (sum(body) & 0xFF):
                self.answer += b"-" if self.acks else b""
                continue
            self.answer += b"+" if self.acks else b""
            found.append(_unescaped(body))
        return found

    def _next_start(self) -> int:
        starts = [at for at in (self._held.find(b"$"), self._held.find(b"\x03")) if at >= 0]
        return min(starts, default=len(self._held))


def _unescaped(body: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(body):
        if body[at] == 0x7D and at + 1 < len(body):
            out.append(body[at + 1] ^ 0x20)
            at += 2
        else:
            out.append(body[at])
            at += 1
    return bytes(out)
