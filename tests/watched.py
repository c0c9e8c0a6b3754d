"""To whom a command speaks, by strace: what it and every process that it starts connect or send to."""

from __future__ import annotations

import ipaddress
import re
import shutil
from pathlib import Path

STRACE = shutil.which("strace")
ADDRESS = re.compile(r'inet_(?:addr\(|pton\(AF_INET6, )"([0-9a-f.:]+)"')


def watching(log: Path, *, detached: bool = False) -> list[str]:
    """What stands before the words of a command; nothing where there is no strace. Detached, the command is the child
    that its caller can end."""
    if STRACE is None:
        return []
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    return [
        STRACE,
        "-f",
        "--seccomp-bpf",
        *(["-D"] if detached else []),
        "-qq",
        "-e",
        calls,
        "-e",
        "signal=none",
        "-o",
        str(log),
    ]


def spoken_to(log: Path) -> list[str]:
    """The calls by which something was said to an address beyond this machine."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line for line in lines if any(not _here(address) for address in ADDRESS.findall(line))]


def _here(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified
