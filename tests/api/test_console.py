"""The console: text from bytes, matching as it arrives, the bounded transcript, echo and log."""
from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyvirt as pv
from pyvirt.console import REGEX_WINDOW, TRANSCRIPT, WINDOW, Cleaner, Matcher, clean

PIECES = st.lists(st.sampled_from(
    [b"a", b"\r", b"\n", b"\r\n", b"\x1b[1m", b"\x1b[38;5;1m", b"\x1b", b"[", b"\x1b]0;title\x07", b"\x1b(B",
     b"\xc3\xa9", b"\xc3", b"\x1bM", b"\x1b=", b"m", b";"]), max_size=12)


def feed(console: pv.Console, *texts: str) -> None:
    for text in texts:
        console.feed(text.encode())


# -- text
@pytest.mark.parametrize(("data", "text"), [
    (b"plain", "plain"), (b"a\r\nb", "a\nb"), (b"a\rb", "a\rb"), (b"\x1b[1;31mred\x1b[0m", "red"),
    (b"\x1b]0;title\x07x\x1b]2;t\x1b\\y", "xy"), (b"\x1b(Bx\x1b=\x1b>\x1bMy\x1b7", "xy"), (b"\x1b[?2004hq", "q"),
    (b"\xc3\xa9\xff", "é\ufffd"), (b"\x1bPdata\x1b\\z", "z"),
])
def test_bytes_become_text(data: bytes, text: str) -> None:
    assert clean(data) == text


@given(PIECES, st.data())
def test_text_does_not_depend_on_how_bytes_arrive(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cleaner, at, text = Cleaner(), 0, ""
    while at < len(whole):
        step = data.draw(st.integers(1, 4))
        text += cleaner.feed(whole[at:at + step])
        at += step
    assert text == Cleaner().feed(whole)


def test_an_escape_that_never_ends_becomes_text() -> None:
    cleaner = Cleaner()
    text = cleaner.feed(b"\x1b]0;" + b"x" * 1000)
    assert text.startswith("\x1b]0;xxx")
    assert cleaner.feed(b"y") == "y"


# -- matching
def first(pattern: str | re.Pattern[str], text: str) -> int | None:
    """Return after how many characters the pattern is met when they arrive one by one."""
    console, matcher = pv.Console(), Matcher(pattern)
    for count, char in enumerate(text, 1):
        if matcher.last is not None and char.encode()[-1] != matcher.last:
            console.feed(char.encode())
            continue
        console.feed(char.encode())
        if console.match([matcher]):
            return count
    return None


@pytest.mark.parametrize(("pattern", "text", "count"), [
    ("abc", "xxabcabc", 5), ("aab", "aaab", 4), ("é", "caféé", 4), ("a\r\nb", "a\nb", 3),
    (re.compile("a+b"), "aaab", 4), (re.compile("a|bc"), "bca", 2), (re.compile("^b", re.M), "ab\nb", 4),
    (re.compile(r"\bfoo\b "), "xfoo foo ", 9), (re.compile("a(?=b)"), "aab", 3), (re.compile("[0-9]{3}"), "12a1234", 6),
    (re.compile("x.*y"), "axbby", 5), (re.compile("PLAIN"), "aPLAIN", 6), (re.compile("never"), "aaaa", None),
])
def test_a_match_is_seen_at_its_last_character(pattern: str | re.Pattern[str], text: str, count: int | None) -> None:
    assert first(pattern, text) == count


@given(st.text("ab", min_size=1, max_size=4), st.text("abc", max_size=30))
def test_literals_are_met_where_find_finds_them(literal: str, text: str) -> None:
    at = text.find(literal)
    assert first(literal, text) == (None if at < 0 else at + len(literal))
    assert first(re.compile(f"(?:{literal})"), text) == (None if at < 0 else at + len(literal))


def test_the_pattern_that_ends_first_wins_and_the_rest_waits() -> None:
    console = pv.Console()
    feed(console, "one two three")
    late, early = Matcher("three"), Matcher("two")
    assert console.match([late, early]) == (early, "two")
    assert console.unmatched == " three"
    assert console.match([early]) is None
    console.restart()
    assert console.match([late]) == (late, "three")
    assert console.unmatched == ""


def test_a_new_pattern_looks_at_what_an_old_one_passed() -> None:
    console = pv.Console()
    feed(console, "hello world")
    assert console.match([Matcher("xyz")]) is None
    assert console.match([Matcher("hello")]) is None, "the same search goes on, and does not look back"
    console.restart()
    assert console.match([Matcher("hello")]) is not None


def test_the_window_is_bounded() -> None:
    console = pv.Console()
    for _ in range(40):
        feed(console, "x" * 5000)
    assert WINDOW <= len(console.unmatched) <= WINDOW * 2
    assert Matcher(re.compile("a.*b")).width == REGEX_WINDOW
    assert Matcher(re.compile("a{3}b?")).width == 4


# -- the transcript
def test_the_transcript_is_bounded_and_keeps_the_end() -> None:
    console = pv.Console()
    for number in range(40_000):
        console.feed(b"line %09d of many, many lines\r\n" % number)
    assert TRANSCRIPT <= len(console.raw) <= TRANSCRIPT * 2
    assert console.tail(2) == "line 000039998 of many, many lines\nline 000039999 of many, many lines"
    console.clear()
    assert (console.raw, console.text, console.tail()) == (b"", "", "")


def test_text_and_raw() -> None:
    console = pv.Console()
    console.feed(b"\x1b[1mbold\x1b[0m\r\n")
    assert console.raw == b"\x1b[1mbold\x1b[0m\r\n"
    assert console.text == "bold\n"
    assert repr(console) == "<Console 14 bytes, last line 'bold'>"


def test_nothing_goes_to_stdout_unless_asked(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pv.Console().feed(b"quiet")
    assert capfdbinary.readouterr().out == b""
    pv.Console(echo=True).feed(b"loud \xff")
    assert capfdbinary.readouterr().out == b"loud \xff"


def test_echo_to_files_of_both_kinds() -> None:
    text, binary = io.StringIO(), io.BytesIO()
    pv.Console(echo=text).feed(b"caf\xc3\xa9")
    pv.Console(echo=binary).feed(b"caf\xc3\xa9")
    assert (text.getvalue(), binary.getvalue()) == ("café", b"caf\xc3\xa9")


def test_the_log_has_all_of_it(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    program = pv.asm("li t0, 0x10000000\nli t1, 65\nsb t1, 0(t0)\nsb t1, 0(t0)\nwfi")
    with pv.Machine(ram="1M", log=log).load(program) as vm:
        vm.run()
        assert log.read_bytes() == b"AA"
    with pytest.raises(pv.HostError, match=r"log .*none.*: cannot be written: No such file"):
        pv.Machine(ram="1M", log=tmp_path / "none" / "x")


# -- typing
def test_typing_reaches_the_uart_as_its_fifo_drains() -> None:
    program = pv.asm("""
            li      s0, 0x10000000
            li      t0, 1
            sb      t0, 2(s0)       # FIFO on
    next:   lbu     t0, 5(s0)
            andi    t0, t0, 1
            beqz    t0, next
            lbu     t0, 0(s0)
            sb      t0, 0(s0)
            j       next
    """)
    text = "héllo, " + "x" * 100 + "!"
    with pv.Machine(ram="1M").load(program) as vm:
        vm.run(instructions=10)
        vm.console.send(text)
        vm.console.send(b"\xff?")
        assert [(i.icount, i.kind) for i in vm.inputs] == [(10, "console")] * 2
        assert vm.run(until="?", instructions=10_000).match == "?"
        assert vm.console.raw == text.encode() + b"\xff?"
        with pytest.raises(pv.ConfigError, match=r"console.send: 5 is not allowed; allowed: str or bytes"):
            vm.console.send(5)  # type: ignore[arg-type]
    with pytest.raises(pv.ConfigError, match="no machine to type to"):
        pv.Console().send("x")
