"""Call keys: where in the graph a call was made, the same on every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from langgraph.config import get_config

_outer: ContextVar[str] = ContextVar("outer", default="")
_attempts: ContextVar[tuple[int, ...]] = ContextVar("attempts", default=())


def segment() -> str:
    """The node that runs now: `step:node:fan`, padded so that keys sort in transcript order.

    Step and fan start anew inside a subgraph; `inside()` carries the outer segments there.
    LangGraph's checkpoint_ns and task ids differ from run to run, so they are of no use here.
    """
    config: Any = get_config()
    where = config["metadata"]
    path = where["langgraph_path"]
    fan = path[1] if path[0] == "__pregel_push" else 0
    return f"{_outer.get()}{where['langgraph_step']:04}:{where['langgraph_node']}:{fan:04}"


def attempt() -> tuple[int, ...]:
    """Which try of this node it is, from 1, after those of the nodes around it.

    A retried node must make the same keys again, so calls are counted anew in every try.
    """
    config: Any = get_config()
    runtime = config["configurable"]["__pregel_runtime"]
    return (*_attempts.get(), runtime.execution_info.node_attempt)


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """Around the call of a child graph from a node: its calls are keyed under this node."""
    tries, outer = _attempts.set(attempt()), _outer.set(segment() + "/")
    try:
        yield
    finally:
        _outer.reset(outer)
        _attempts.reset(tries)
