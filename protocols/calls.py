"""Call keys: where in the graph a call was made, the same on every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from langgraph.config import get_config

_outer: ContextVar[str] = ContextVar("outer", default="")
_attempts: ContextVar[tuple[int, ...]] = ContextVar("attempts", default=())


def place() -> tuple[str, tuple[int, ...]]:
    """The node that runs now, and which try of it, and of each node around it, this is.

    The node is `step:node:fan`, padded so that keys sort in transcript order. Step and fan start
    anew inside a subgraph; `inside()` carries the outer segments there. LangGraph's checkpoint_ns
    and task ids differ from run to run, so they are of no use here. A retried node must make the
    same keys again, so calls are counted anew in every try, from 1.
    """
    config: Any = get_config()
    where = config["metadata"]
    path = where["langgraph_path"]
    fan = path[1] if path[0] == "__pregel_push" else 0
    segment = f"{_outer.get()}{where['langgraph_step']:04}:{where['langgraph_node']}:{fan:04}"
    runtime = config["configurable"]["__pregel_runtime"]
    return segment, (*_attempts.get(), runtime.execution_info.node_attempt)


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """Around the call of a child graph from a node: its calls are keyed under this node."""
    segment, attempts = place()
    tries, outer = _attempts.set(attempts), _outer.set(segment + "/")
    try:
        yield
    finally:
        _outer.reset(outer)
        _attempts.reset(tries)
