"""The console as people see it: text with escape sequences removed, a bounded transcript, and matching on it.

Owns no registers. The machine feeds it what the guest sent, byte for byte in order, and takes what is to be typed.
Matching runs on a window of the last 64 Ki characters after the previous match.
"""
from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pyvirt.errors import ConfigError, HostError

WINDOW = 1 << 16
TRANSCRIPT = 1 << 20
REGEX_WINDOW = 1 << 12

# CSI, OSC and other strings (ended by BEL or ST), character sets, two-character sequences: ECMA-48 and xterm. Bounded,
# so that what begins like a sequence and never ends becomes text. The group is the beginning of one, at the end.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]{0,99}[ -/]{0,9}[@-~]|\][^\x07\x1b]{0,250}(?:\x07|\x1b\\)|[PX^_][^\x1b]{0,250}\x1b\\"
    r"|[ -/]{1,9}[0-~]|[0-OQ-WYZ\\`-~]"
    r"|(\[[0-?]{0,99}[ -/]{0,9}|\][^\x07\x1b]{0,250}\x1b?|[PX^_][^\x1b]{0,250}\x1b?|[ -/]{0,9})\Z)")


class Cleaner:
    """Turns bytes into text as they come: UTF-8, escape sequences removed, CR LF as one newline."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape = self._return = ""  # what may be the beginning of a sequence, or of a newline

    def feed(self, data: bytes) -> str:
        """Return the text that these bytes complete."""
        text = self._escape + self._decode.decode(data)
        self._escape = ""
        if "\x1b" in text:
            text = _ESCAPE.sub(self._remove, text)
        text, self._return = self._return + text, ""
        if text.endswith("\r"):
            text, self._return = text[:-1], "\r"
        return text.replace("\r\n", "\n")

    def _remove(self, found: re.Match[str]) -> str:
        if found[1] is not None:
            self._escape = found[0]
        return ""

    @property
    def held(self) -> str:
        """What has come and is not text yet."""
        return self._return + self._escape

    @property
    def state(self) -> tuple[Any, ...]:
        """What the next bytes will be read with; settable."""
        return self._decode.getstate(), self._escape, self._return

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        decode, self._escape, self._return = state
        self._decode.setstate(decode)


def clean(data: bytes) -> str:
    """Return bytes as the console shows them."""
    cleaner = Cleaner()
    return cleaner.feed(data) + cleaner.held


class Matcher:
    """One pattern, searched as text arrives. `last` holds the bytes that can complete a match; None means any."""

    def __init__(self, pattern: str | re.Pattern[str]) -> None:
        literal = pattern if isinstance(pattern, str) else _literal(pattern)
        self.literal = literal.replace("\r\n", "\n") if literal is not None else None
        self.pattern = pattern
        self.last: int | None = None
        self.width = 1
        if self.literal is not None:
            self.last, self.width = self.literal.encode("utf-8", "surrogateescape")[-1], len(self.literal)
        elif isinstance(pattern, re.Pattern):
            self.width = _width(pattern)

    def search(self, window: str, start: int) -> tuple[int, int] | None:
        """Return the span of a match in a window whose text from `start` on is new."""
        if self.literal is not None:
            at = window.find(self.literal, max(start - self.width + 1, 0))
            return None if at < 0 else (at, at + self.width)
        assert isinstance(self.pattern, re.Pattern)
        found = self.pattern.search(window, max(start - self.width, 0))
        return None if found is None or found.end() == found.start() else found.span()


def _literal(pattern: re.Pattern[str]) -> str | None:
    """Return the text of an expression that has nothing special in it."""
    if pattern.flags & ~re.UNICODE or re.search(r"[\\.^$*+?{}\[\]|()]", pattern.pattern) or not pattern.pattern:
        return None
    return pattern.pattern


def _width(pattern: re.Pattern[str]) -> int:
    """Return how far before new text a match can begin: the most characters it can have, bounded."""
    if "(?" in pattern.pattern or "$" in pattern.pattern or "\\" in pattern.pattern:
        return REGEX_WINDOW  # assertions look beyond what the match itself covers
    parser: Any = getattr(re, "_parser", None)
    if parser is None:
        return REGEX_WINDOW
    return min(int(parser.parse(pattern.pattern, pattern.flags).getwidth()[1]), REGEX_WINDOW)


class ConsoleState(NamedTuple):
    """A console at one moment: what was printed, and of it what waits for its end and what was not matched yet."""

    transcript: bytes = b""
    cleaner: tuple[Any, ...] = ((b"", 0), "", "")
    window: str = ""
    searched: int = 0


NOTHING = ConsoleState()


class Console:
    """What the guest printed and what is typed to it.

    `text` is the transcript as people read it, `raw` its bytes; both keep the last 1 MiB. `echo=True` copies output to
    stdout, or to the file object given; `log=path` writes all of it to a file.
    """

    # What is held is `_kept`, or the four after it when that is None: forks that print nothing share one state.
    __slots__ = ("__weakref__", "_cleaner", "_kept", "_log", "_searched", "_send", "_transcript", "_window", "dropped",
                 "echo", "log_path")

    def __init__(self, *, echo: Any = False, log: str | os.PathLike[str] | None = None,
                 send: Callable[[bytes], None] | None = None, state: ConsoleState = NOTHING) -> None:
        self._kept: ConsoleState | None = state
        self._send = send
        self.dropped = 0
        self.echo = echo
        self._log: Any = None
        self.log_path: Path | None = None
        if log is not None:
            self.log_path = Path(log)
            try:
                self._log = self.log_path.open("wb")
            except OSError as error:
                raise HostError(error.errno, f"log {log}: cannot be written: {error.strerror}") from error

    # -- typing
    def send(self, data: str | bytes) -> None:
        """Type to the guest: text in UTF-8, or bytes. May be called from any thread, also while the machine runs."""
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        if not isinstance(data, (bytes, bytearray)):
            raise ConfigError(f"console.send: {data!r} is not allowed; allowed: str or bytes")
        if self._send is None:
            raise ConfigError("console.send: this console has no machine to type to")
        self._send(bytes(data))

    # -- what was printed
    @property
    def raw(self) -> bytes:
        """The transcript's bytes, escape sequences and all."""
        return bytes(self._transcript) if self._kept is None else self._kept.transcript

    @property
    def text(self) -> str:
        """The transcript as text, without escape sequences."""
        return clean(self.raw)

    @property
    def unmatched(self) -> str:
        """The text after the last match."""
        return self._window if self._kept is None else self._kept.window

    def tail(self, lines: int = 10) -> str:
        """Return the last lines of the transcript."""
        held = self._transcript if self._kept is None else self._kept.transcript
        return "\n".join(clean(bytes(held[-(lines * 400):])).rstrip("\n").split("\n")[-lines:])

    @property
    def state(self) -> ConsoleState:
        """What was printed and what of it was matched, for snapshots; assigning goes back to it."""
        if self._kept is None:
            self._kept = ConsoleState(bytes(self._transcript), self._cleaner.state, self._window, self._searched)
            del self._transcript, self._cleaner, self._window, self._searched
        return self._kept

    @state.setter
    def state(self, state: ConsoleState) -> None:
        self._kept = state

    def _open(self) -> None:
        """Make what is held something that can change."""
        if self._kept is not None:
            state, self._kept = self._kept, None
            self._transcript = bytearray(state.transcript)
            self._cleaner = Cleaner()
            self._cleaner.state = state.cleaner
            self._window, self._searched = state.window, state.searched

    def clear(self) -> None:
        """Forget the transcript and what has not been matched."""
        self._open()
        self._transcript.clear()
        self._window, self._searched = "", 0

    # -- for the machine
    def feed(self, data: bytes) -> None:
        """Take what the guest sent."""
        if not data:
            return
        self._open()
        self._transcript += data
        if len(self._transcript) > TRANSCRIPT + (TRANSCRIPT >> 3):
            del self._transcript[:len(self._transcript) - TRANSCRIPT]
        self._window += self._cleaner.feed(data)
        if len(self._window) > WINDOW + (WINDOW >> 3):
            cut = len(self._window) - WINDOW
            self._window, self._searched = self._window[cut:], max(self._searched - cut, 0)
        if self._log is not None:
            self._log.write(data)
        if self.echo:
            self._echo(data)

    def _echo(self, data: bytes) -> None:
        out: Any = sys.stdout if self.echo is True else self.echo
        binary = getattr(out, "buffer", None)
        if binary is not None:
            out.flush()
            binary.write(data)
            binary.flush()
        else:
            try:
                out.write(data.decode("utf-8", "replace"))
            except TypeError:
                out.write(data)
            out.flush()

    def restart(self) -> None:
        """Have the next match look at everything after the previous match again, for a new pattern."""
        if self._kept is None:
            self._searched = 0
        elif self._kept.searched:
            self._kept = self._kept._replace(searched=0)

    def match(self, matchers: Iterable[Matcher]) -> tuple[Matcher, str] | None:
        """Return the pattern that is met first, with its text, and move behind it."""
        self._open()
        best: tuple[int, int, Matcher] | None = None
        for matcher in matchers:
            span = matcher.search(self._window, self._searched)
            if span is not None and (best is None or span[1] < best[1]):
                best = (*span, matcher)
        if best is None:
            self._searched = len(self._window)
            return None
        start, end, matcher = best
        text = self._window[start:end]
        self._window, self._searched = self._window[end:], 0
        return matcher, text

    def flush(self) -> None:
        """Bring the log file up to date."""
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """Close the log file; the transcript stays readable."""
        if self._log is not None:
            log, self._log = self._log, None
            log.close()

    def __repr__(self) -> str:
        lines = self.tail(1)
        size = len(self._transcript if self._kept is None else self._kept.transcript)
        return f"<Console {size} bytes, last line {lines[-60:]!r}>"
