"""What runs inside the sandbox: a program in one process, its tests in another.

Sent as text to the sandbox's Python; standard input holds the length of the program as eight
digits, the program, and then JSON with `entries`, `native` and `tests`.

    tests  -- name, arguments -->  program
           <-- value or error ---

The program never sees its tests, and the tests never touch an object of the program: values cross
as JSON, each with its type. So a program can neither look up what is expected of it, nor return
something that equals everything, nor end with a good exit status before it was tested: the status
is that of the tests' process. It imports only the standard library.
"""

import json
import os

MOST = 10**7
"""Longest message, in bytes."""


def plain(value):
    """A value in JSON, with its type. Raises TypeError for what is not plain data."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", [[plain(k), plain(v)] for k, v in value.items()]]
    for kind in (str, int, float, complex):
        if isinstance(value, kind):
            return [kind.__name__, str(value)]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [plain(item) for item in value]]
    raise TypeError(f"{type(value).__name__} is no plain data")


def value(told):
    """The value that `plain` told. Raises ValueError for anything else."""
    if told is None or isinstance(told, bool):
        return told
    kind, inner = told
    for known in (str, int, float, complex):
        if kind == known.__name__:
            return known(inner)
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "dict":
        return {value(k): value(v) for k, v in inner}
    for known in (list, tuple, set, frozenset):
        if kind == known.__name__:
            return known(map(value, inner))
    raise ValueError(f"no such kind: {kind!r}")


def serve(source, inlet, outlet):
    """The program's process: define everything, then answer calls until the other one is gone."""
    names: dict = {"__name__": "program"}
    exec(compile(source, "program", "exec"), names)
    while line := inlet.readline(MOST):
        name, arguments, named = json.loads(line)
        try:
            given = [value(a) for a in arguments], {k: value(v) for k, v in named.items()}
            reply = ["value", plain(names[name](*given[0], **given[1]))]
        except Exception as error:
            reply = ["error", type(error).__name__]
        outlet.write(json.dumps(reply) + "\n")
        outlet.flush()


def stub(name, inlet, outlet):
    """A function of the program, as its tests see it."""

    def call(*arguments, **named):
        told = [name, [plain(a) for a in arguments], {k: plain(v) for k, v in named.items()}]
        outlet.write(json.dumps(told) + "\n")
        outlet.flush()
        said, found = json.loads(inlet.readline(MOST))
        if said != "value":
            raise RuntimeError(f"{name} raised {found}")
        return value(found)

    return call


def main():
    """Exit with 0 only when every test passes."""
    source = read(int(read(8))).decode()
    (calls_out, calls_in), (replies_out, replies_in) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # the tests are still unread in it
        os.close(calls_in)
        os.close(replies_out)
        serve(source, os.fdopen(calls_out), os.fdopen(replies_in, "w"))
        os._exit(0)
    os.close(calls_out)
    os.close(replies_in)
    given = json.loads(read(MOST))
    names: dict = {"__name__": "tests"}
    exec(given["native"], names)
    inlet, outlet = os.fdopen(replies_out), os.fdopen(calls_in, "w")
    names.update((name, stub(name, inlet, outlet)) for name in given["entries"])
    exec(given["tests"], names)
    os._exit(0)


def read(size):
    """So many bytes of standard input, unless it ends before; nothing beyond is buffered."""
    found = b""
    while len(found) < size and (more := os.read(0, size - len(found))):
        found += more
    return found


if __name__ == "__main__":
    main()
