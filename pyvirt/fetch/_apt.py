"""A private apt: the host's own mirror and trust, another suite and architecture, nothing of the host touched.

Owns the reading of the host's sources (deb822 and one-line) and the running of apt-get, apt-cache and dpkg-deb with
every directory of theirs moved under one of ours. Needs no root rights. Knows nothing of what is done with packages.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyvirt.errors import HostError

ARCH = "riscv64"
TOOLS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT = 1800  # seconds for one apt command; apt's own network timeouts are far below it


@dataclass(frozen=True)
class Source:
    """One archive the host's apt uses: its address and how it is trusted."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    options: dict[str, str] = field(default_factory=dict)  # deb822 names: Signed-By, Trusted, ...


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the binary archives of a deb822 `.sources` file, one for each address in a stanza."""
    for stanza in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.split("\n"):
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        kept = {n.title(): fields[n] for n in ("signed-by", "trusted", "check-valid-until") if n in fields}
        suites, components = (tuple(fields.get(n, "").split()) for n in ("suites", "components"))
        for uri in fields.get("uris", "").split():
            yield Source(uri, suites, components, kept)


def parse_one_line(text: str) -> Iterator[Source]:
    """Yield the binary archives of a one-line-style `sources.list`."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if not match:
            continue
        options: dict[str, str] = {}
        for option in (match[1] or "").split():
            name, _, value = option.partition("=")
            if name.rstrip("+-").lower() in ("signed-by", "trusted", "check-valid-until"):
                options[name.rstrip("+-").title()] = value.replace(",", " ")
        yield Source(match[2], (match[3],), tuple(match[4].split()), options)


def parse(path: Path) -> list[Source]:
    """Return the archives listed in one file of the host's, by its suffix."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return list(parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text))


def need_tools() -> None:
    """Raise HostError where this host has no apt, saying what to do instead."""
    lacking = [t for t in TOOLS if shutil.which(t) is None]
    if lacking:
        raise HostError(
            f"`pyvirt pull` works through apt and found no {', '.join(lacking)} on PATH (it needs {', '.join(TOOLS)}). "
            "On Debian or Ubuntu: apt-get install apt dpkg. Elsewhere: fetch a riscv64 kernel Image and an initramfs "
            "by other means and use `pyvirt run --kernel FILE --initrd FILE`"
        )


def host_sources() -> list[Source]:
    """Return the archives of the host's own sources that could hold a Debian suite, the likeliest first."""
    need_tools()
    shell = ["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    answer = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^(\w+)='(.*)'$", answer, re.M))
    files = [Path(found["LIST"])] if found.get("LIST") else []
    parts = Path(found["PARTS"]) if found.get("PARTS") else None
    if parts is not None and parts.is_dir():
        files += sorted(p for p in parts.iterdir() if p.suffix in (".list", ".sources"))
    return candidates(s for f in files if f.is_file() for s in parse(f))


def candidates(sources: Iterable[Source]) -> list[Source]:
    """Return the archives that could hold a whole Debian suite, each address once, the likeliest first."""
    found: dict[str, Source] = {}
    for source in sources:
        # A security archive holds only updates, and a third party's flat archive has no component `main`.
        if "main" in source.components and "security" not in source.uri and not source.uri.startswith("cdrom:"):
            found.setdefault(source.uri.rstrip("/"), source)
    return sorted(found.values(), key=lambda s: "debian" not in s.uri)


class Apt:
    """apt for one suite of one archive, with its state under `root`; downloads are shared between suites."""

    def __init__(self, root: Path, source: Source, suite: str, *, say: Callable[[str], None]) -> None:
        self.root, self.source, self.suite, self.say = root, source, suite, say
        self.lists = root / "lists" / suite
        self.debs = root / "debs"
        for folder in (self.lists / "partial", self.debs / "partial", root / "etc"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        listing = root / "etc" / f"{suite}.sources"
        options = dict(source.options)
        if "Signed-By" not in options and KEYRING.exists():
            options["Signed-By"] = str(KEYRING)
        stanza = {"Types": "deb", "URIs": source.uri, "Suites": suite, "Components": "main", "Architectures": ARCH}
        listing.write_text("".join(f"{name}: {value}\n" for name, value in {**stanza, **options}.items()))
        settings = {
            "Dir::Etc::sourcelist": listing,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": root / "state",
            "Dir::State::lists": self.lists,
            "Dir::State::status": root / "status",
            "Dir::State::extended_states": root / "extended_states",
            "Dir::Cache": root,
            "Dir::Cache::archives": self.debs,
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Log": root / "log",
            "APT::Architecture": ARCH,
            "APT::Architectures::": ARCH,
            "APT::Install-Recommends": "false",
            "APT::Keep-Downloaded-Packages": "true",
            "Binary::apt-get::APT::Keep-Downloaded-Packages": "true",
            "DPkg::Post-Invoke::": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            # As root apt would hand downloads to a user who can't write into a private cache.
            **({"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}),
        }
        self.options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run one apt command and return what it printed; HostError with its last lines if it failed."""
        full = [command[0], *self.options, *command[1:]]
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        try:
            done = subprocess.run(
                full,
                capture_output=True,
                text=True,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{' '.join(command)} did not end within {TIMEOUT} s ({self})") from None
        if done.returncode != 0:
            tail = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise HostError(f"{' '.join(command)} failed with code {done.returncode} ({self}): {tail}")
        return done.stdout

    def __str__(self) -> str:
        return f"suite {self.suite} of {self.source.uri}"

    def update(self) -> None:
        """Fetch the suite's index; a suite that the archive does not have is a HostError."""
        # Without this, apt reports an index that did not arrive as a warning and goes on with none.
        self.run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
        if not any(self.lists.glob("*_Packages*")):
            raise HostError(f"{self} has no package index for {ARCH}")

    def fields(self, package: str) -> dict[str, str]:
        """Return a package's control fields (Version, Depends, ...) as the suite offers it."""
        text = self.run("apt-cache", "--no-all-versions", "show", package)
        stanza = text.split("\n\n")[0]
        return dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.M))

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Fetch exactly these packages, unless they are here already, and return their files."""
        self.say(f"downloading {', '.join(packages)} from {self}")
        self.run("apt-get", "-q", "download", *packages, cwd=self.debs)
        return [self._file(p, self.fields(p)["Version"]) for p in packages]

    def closure(self, packages: Sequence[str]) -> list[Path]:
        """Fetch these packages and all they depend on, and return their files."""
        self.say(f"downloading {', '.join(packages)} and what they depend on from {self}")
        install = ("--no-install-recommends", "install", *packages)
        plan = self.run("apt-get", "-q", "-s", *install)
        self.run("apt-get", "-q", "-y", "-d", *install)
        # "Inst NAME (VERSION Debian:forky [riscv64])", one line a package
        return [self._file(name, version) for name, version in re.findall(r"^Inst (\S+) \((\S+) ", plan, re.M)]

    def _file(self, package: str, version: str) -> Path:
        found = sorted(self.debs.glob(f"{package}_{version.replace(':', '%3a')}_*.deb"))
        if not found:
            raise HostError(f"{package} {version} is not in {self.debs} after its download ({self})")
        return found[0]


def unpack(deb: Path, folder: Path) -> None:
    """Unpack a package's files into `folder`, running none of its scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["dpkg-deb", "-x", str(deb), str(folder)], capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode != 0:
        raise HostError(f"dpkg-deb could not unpack {deb}: {done.stderr.strip()}")
