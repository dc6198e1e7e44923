"""What was said: records, journal, tables. Start with `records.py`."""

from .errors import (
    BadInput,
    Divergence,
    LimitReached,
    ModelError,
    ProtocolError,
    StoreError,
    SuperalignError,
    Unreadable,
)
from .records import (
    Critique,
    Episode,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Question,
    Row,
    Run,
    Task,
    Turn,
    Verdict,
)
from .store import Store

__all__ = [
    "BadInput",
    "Critique",
    "Divergence",
    "Episode",
    "Evaluation",
    "Label",
    "LimitReached",
    "Message",
    "ModelError",
    "PolicyVersion",
    "ProtocolError",
    "Question",
    "Row",
    "Run",
    "Store",
    "StoreError",
    "SuperalignError",
    "Task",
    "Turn",
    "Unreadable",
    "Verdict",
]
