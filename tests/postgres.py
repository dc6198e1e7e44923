"""A PostgreSQL server of the tests' own: made in a temporary folder, reached by a socket in it.

    with Server() as server: Store.open(server.new_database(), write=True)

Its port is the socket's name, so any number of servers run beside each other. PostgreSQL refuses to
run as root; then it runs as `nobody`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any, Self

from sqlalchemy import create_engine

DEBIAN = Path("/usr/lib/postgresql")
USER = "superalign"


def programs() -> Path | None:
    """The folder of the newest server's programs."""
    found = [folder / "bin" for folder in DEBIAN.glob("*") if (folder / "bin" / "initdb").exists()]
    if found:
        return max(found, key=lambda folder: int(folder.parent.name))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Server:
    """Use in a `with`; what it held is gone afterwards."""

    def __init__(self) -> None:
        there = programs()
        assert there is not None
        self._programs = there
        self._folder = Path(tempfile.mkdtemp(prefix="superalign-"))
        self._numbers = count(1)
        self._who: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody", "nogroup")
            self._who |= {"user": "nobody", "group": "nogroup", "extra_groups": []}

    def __enter__(self) -> Self:
        words = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", f"--username={USER}"]
        made = subprocess.run(
            [self._programs / "initdb", *words, "-D", self._folder / "data"],
            capture_output=True,
            **self._who,
        )
        assert made.returncode == 0, made.stderr.decode()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it, or start it again after it was killed."""
        folder, log = self._folder, self._folder / "log"
        options = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._running = subprocess.Popen(
            [self._programs / "postgres", "-D", folder / "data", *words],
            stdout=subprocess.DEVNULL,
            stderr=log.open("w"),
            **self._who,
        )
        until = time.monotonic() + 60
        ready = [self._programs / "pg_isready", "-q", "-h", folder]
        while subprocess.run(ready).returncode != 0:
            assert self._running.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a crash would: what it will know is what it wrote."""
        self._running.send_signal(signal.SIGQUIT)
        self._running.wait()

    def new_database(self) -> str:
        """The URL of an empty database."""
        url = f"postgresql+psycopg://{USER}@/{{}}?host={self._folder}"
        engine = create_engine(url.format("postgres"), isolation_level="AUTOCOMMIT")
        name = f"store{next(self._numbers)}"
        with engine.connect() as db:
            db.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return url.format(name)
