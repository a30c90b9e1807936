"""No connections to other machines, in this process and those that it starts: Python imports this file by its name.

An attempt fails as it does without a network, and is written to the file that DETECT_ATTEMPTS names.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
import traceback
from typing import Any

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname")


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: of all Python code, and it cannot be removed."""
    if event == "socket.connect":
        connection, address = arguments
        if connection.type != socket.SOCK_STREAM:  # sends nothing; programs ask so for the address of their own machine
            return
        host = address[0] if isinstance(address, tuple) else ""
    elif event in LOOKUPS:
        host = arguments[0]
    else:
        return
    if not is_here(host.decode() if isinstance(host, bytes) else host or ""):
        with open(os.environ["DETECT_ATTEMPTS"], "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(f"{event} {host}\n{''.join(traceback.format_stack(limit=12))}\n")
        raise OSError(errno.ENETUNREACH, f"tests without a network: {event} {host}")


def is_here(host: str) -> bool:
    """Whether a host is this machine."""
    if host in ("", "localhost", "0.0.0.0", "::", socket.gethostname()):  # noqa: S104
        return True
    try:
        if ipaddress.ip_address(host).is_loopback:
            return True
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as own:
            own.bind((host, 0))  # only an address of this machine can be bound
    except (ValueError, OSError):
        return False
    return True


sys.addaudithook(refuse)
