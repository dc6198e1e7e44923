"""A sandbox for Python programs that nobody has read: no files, no network, no time to speak of.

    setpriv -> bubblewrap -> prlimit -> python      (and a seccomp filter around the last two)

bubblewrap shows the program a read-only /usr, an empty /tmp of 16 MB and nothing else, in
namespaces of its own, in which no further user namespace can be made. setpriv takes root's rights
away first: root is exempt from the limit on processes. prlimit bounds memory, time, processes and
files; seccomp refuses sockets and what only administrators need. The output goes to a file that
cannot grow beyond a limit.

`sandbox()` is the only way in. It first plays the escapes of `escapes.py`; if one of them succeeds,
or a part is missing, it raises BadInput: a program is never run without the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from superalign.store.errors import BadInput

PARTS = {"bwrap": "bubblewrap", "setpriv": "util-linux", "prlimit": "util-linux"}
"""Command -> the Debian package that has it."""
NOBODY = 65534
MEGABYTE = 2**20
LIMITS = {
    "as": 512 * MEGABYTE,
    "cpu": 5,
    "nproc": 32,
    "fsize": MEGABYTE,
    "nofile": 64,
    "core": 0,
}
TMP = 16 * MEGABYTE
SECONDS = 10.0
"""How long a program may run by the clock on the wall."""
REFUSED = (
    "socket socketpair ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot"
    " unshare setns bpf perf_event_open userfaultfd io_uring_setup keyctl add_key request_key"
    " kexec_load init_module finit_module delete_module open_by_handle_at memfd_create shmget"
    " msgget semget move_mount fsopen open_tree syslog reboot swapon swapoff acct quotactl"
).split()
"""System calls that fail with EPERM."""


class Ended(NamedTuple):
    """How a program ended."""

    output: str
    """What it wrote to standard output and standard error, cut where the limit lies."""
    status: int | None
    """Its exit status, negative for a signal; None when its time was over."""


class Sandbox:
    """Runs programs. Made by `sandbox()`, which also tests it."""

    def __init__(self) -> None:
        """Raises BadInput when a part is not installed."""
        missing = sorted({PARTS[name] for name in PARTS if not shutil.which(name)})
        if missing:
            what = " and ".join(missing)
            raise BadInput(f"no sandbox: {what} is missing; apt-get install {' '.join(missing)}")
        self._filter = _seccomp()
        self._command = _command(_python())

    def run(self, program: str, given: bytes = b"", seconds: float = SECONDS) -> Ended:
        """Run a Python program to its end, or until its time is over. `given` is its standard
        input; long text belongs there, since a program is one word of a command."""
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as output:
            told.write(given)
            told.seek(0)
            status = self._end(self._start(program, told.fileno(), output.fileno()), seconds)
            output.seek(0)
            return Ended(output.read(LIMITS["fsize"]).decode("utf-8", "replace"), status)

    def _start(self, program: str, told: int, output: int) -> subprocess.Popen[bytes]:
        rules = os.memfd_create("seccomp")
        try:
            os.write(rules, self._filter)
            os.lseek(rules, 0, os.SEEK_SET)
            words = [word.format(seccomp=rules) for word in self._command]
            return subprocess.Popen(
                [*words, program],
                stdin=told,
                stdout=output,
                stderr=output,
                pass_fds=(rules,),
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(rules)

    def _end(self, process: subprocess.Popen[bytes], seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # its namespace of processes dies with it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@cache
def sandbox() -> Sandbox:
    """The sandbox of this machine, proved by the escapes. Raises BadInput when there is none."""
    from .escapes import escaped

    found = Sandbox()
    first = found.run("print('ready')")
    if first != Ended("ready\n", 0):
        said = first.output.strip() or f"exit status {first.status}"
        raise BadInput(
            f"no sandbox: a first program did not run ({said}); allow unprivileged user namespaces"
        )
    if escapes := escaped(found):
        raise BadInput(
            f"no sandbox: {', '.join(escapes)} got out of it; programs are not run on this machine"
        )
    return found


def _python() -> Path:
    """The interpreter inside: the system's, else the one that runs this, without its packages."""
    system = Path("/usr/bin/python3")
    return system if system.exists() else Path(getattr(sys, "_base_executable", sys.executable))


def _command(python: Path) -> list[str]:
    rights = ["setpriv", "--no-new-privs"]
    if os.geteuid() == 0:
        rights += ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    files = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "lib32", "libx32"):
        folder = Path("/") / name
        if folder.is_symlink():
            files += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.exists():
            files += ["--ro-bind", str(folder), str(folder)]
    if not python.is_relative_to("/usr"):
        files += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    files += ["--dev", "/dev", "--remount-ro", "/dev", "--size", str(TMP), "--tmpfs", "/tmp"]
    walls = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    walls += ["--die-with-parent", "--new-session", "--clearenv", "--chdir", "/tmp"]
    walls += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "PYTHONHASHSEED", "0"]
    limits = [f"--{name}={most}" for name, most in LIMITS.items()]
    return [
        *rights,
        *("bwrap", *walls, *files, "--remount-ro", "/", "--seccomp", "{seccomp}", "--"),
        *("prlimit", *limits, "--"),
        *(str(python), "-S", "-B", "-s", "-P", "-X", "utf8", "-c"),
    ]


def _seccomp() -> bytes:
    """The filter as the kernel reads it. Raises BadInput where libseccomp is missing."""
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        remedy = "apt-get install libseccomp2"
        raise BadInput(f"no sandbox: libseccomp is missing ({error}); {remedy}") from None
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(allow)))
    for name in REFUSED:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # this machine may have no such call
            library.seccomp_rule_add(rules, ctypes.c_uint32(refuse), number, 0)
    fd = os.memfd_create("filter")
    try:
        failed = library.seccomp_export_bpf(rules, fd)
        library.seccomp_release(rules)
        if failed:
            raise BadInput(f"no sandbox: libseccomp wrote no filter ({os.strerror(-failed)})")
        return os.pread(fd, MEGABYTE, 0)
    finally:
        os.close(fd)
