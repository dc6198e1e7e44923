"""Who speaks when. What a protocol file needs is here; `critique.py` shows how it reads."""

from superalign.agents import Ask, parse_choice, parse_fault
from superalign.store import Critique, Episode, Question, Turn, Unreadable, Verdict

from .calls import inside
from .judging import decision, judged, truthful, won
from .nest import nest
from .protocol import Protocol, load_protocol, protocol, shipped
from .state import Context, State, Update

__all__ = [
    "Ask",
    "Context",
    "Critique",
    "Episode",
    "Protocol",
    "Question",
    "State",
    "Turn",
    "Unreadable",
    "Update",
    "Verdict",
    "decision",
    "inside",
    "judged",
    "load_protocol",
    "nest",
    "parse_choice",
    "parse_fault",
    "protocol",
    "shipped",
    "truthful",
    "won",
]
