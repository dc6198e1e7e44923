"""Who speaks: the model port, dialects, agents, scripted models. Engines are imported by name."""

from .agent import Agent, clean, view
from .dialects import TAGS, Dialect, chat, plain, tags
from .model import Ask, Completion, Model, Request, Sampling, View, Waits, complete, pressure
from .parse import parse_choice, parse_fault
from .scripted import Scripted, recording

__all__ = [
    "TAGS",
    "Agent",
    "Ask",
    "Completion",
    "Dialect",
    "Model",
    "Request",
    "Sampling",
    "Scripted",
    "View",
    "Waits",
    "chat",
    "clean",
    "complete",
    "parse_choice",
    "parse_fault",
    "plain",
    "pressure",
    "recording",
    "tags",
    "view",
]
