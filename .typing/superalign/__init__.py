"""superalign: simulated scalable oversight. Import from the rooms, e.g. `superalign.protocols`."""

from importlib.metadata import version

__version__ = version("superalign")
