"""The twelve escapes that a sandbox must hold against before any program is run in it.

Each is a program that prints `alive` first, and `escaped` when it got what it must not have. One
that never came to life proves nothing, and counts as an escape.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sandbox import Sandbox

PRELUDE = """
print('alive', flush=True)
import ctypes, os, resource, socket, time
libc = ctypes.CDLL(None)
def attempt(what):
    try:
        if what(): print('escaped', flush=True)
    except (OSError, MemoryError): pass
"""

ESCAPES = {
    "reading files": """
for path in (SECRET, '/etc/passwd', '/etc/shadow', '/root/.bashrc', '/proc/1/environ'):
    attempt(lambda: open(path).read())
for path in ('/root', '/home', '/etc', '/proc', '/var'):
    attempt(lambda: os.listdir(path))
""",
    "writing system files": """
for folder in ('/usr', '/usr/bin', '/bin', '/lib', '/', '/dev'):
    attempt(lambda: open(f'{folder}/escape', 'w'))
    attempt(lambda: os.chmod(folder, 0o777) is None)
""",
    "the environment": """
attempt(lambda: set(os.environ) - {'PATH', 'PYTHONHASHSEED', 'LC_CTYPE', 'PWD'})
""",
    "loopback": "attempt(lambda: socket.create_connection(('127.0.0.1', PORT), 1))",
    "a socket": """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    attempt(lambda: socket.socket(family, socket.SOCK_DGRAM))
attempt(socket.socketpair)
""",
    "other processes": """
attempt(lambda: os.path.exists(f'/proc/{PID}'))
attempt(lambda: os.kill(PID, 0) is None)
attempt(lambda: libc.ptrace(16, PID, 0, 0) == 0)
""",
    "a mount": """
attempt(lambda: libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0)
attempt(lambda: libc.mount(b'none', b'/usr', None, 32 | 4096, None) == 0)
attempt(lambda: libc.chroot(b'/tmp') == 0)
""",
    "a user namespace": """
attempt(lambda: libc.unshare(0x10000000) == 0)
def cloned():
    pid = libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 0x10000011, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    return pid > 0
attempt(cloned)
""",
    "memory": "attempt(lambda: bytearray(2**30))",
    "processes without end": """
def forks():
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
    return True
attempt(forks)
""",
    "the disk": """
def fill(folder):
    for i in range(64):
        file = os.open(f'{folder}/{i}', os.O_CREAT | os.O_WRONLY)
        os.write(file, bytes(2**19))
        os.close(file)
    return True
attempt(lambda: os.write(os.open('/tmp/one', os.O_CREAT | os.O_WRONLY), bytes(2**23)) == 2**23)
for folder in ('/tmp', '/dev/shm', '/dev', '/', '/var/tmp', '/run'):
    attempt(lambda: fill(folder))
""",
    "its time": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        libc.prctl(15, NAME, 0, 0, 0)
        time.sleep(8)
        os._exit(0)
while True: pass
""",
}
"""What is attempted -> the program."""
WAIT = {"its time": 2.0}
"""Seconds after which a program is ended."""


def escaped(sandbox: Sandbox) -> list[str]:
    """The escapes that succeed."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o755)
        secret, name = Path(folder) / "secret", secrets.token_hex(7)
        secret.write_text(name)
        planted = f"SECRET, PORT, PID, NAME = {str(secret)!r}, {server.getsockname()[1]}, "
        planted += f"{os.getpid()}, {name.encode()!r}\n"

        def gets_out(what: str) -> bool:
            ended = sandbox.run(planted + PRELUDE + ESCAPES[what], seconds=WAIT.get(what, 10.0))
            return not ended.output.startswith("alive\n") or "escaped" in ended.output

        with ThreadPoolExecutor(4) as pool:
            out = dict(zip(ESCAPES, pool.map(gets_out, ESCAPES), strict=True))
        out["its time"] |= _outlives(name)
    return [what for what, got_out in out.items() if got_out]


def _outlives(name: str, seconds: float = 2.0) -> bool:
    """Whether a process of this name is still there when the kernel has had time to end it."""
    end = time.monotonic() + seconds
    while name in _running():
        if time.monotonic() > end:
            return True
        time.sleep(0.01)
    return False


def _running() -> set[str]:
    """The names of all processes of this machine."""
    names = set()
    for process in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.add(process.read_text().strip())
        except OSError:  # it has just ended
            continue
    return names
