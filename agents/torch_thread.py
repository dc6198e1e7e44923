"""The one thread in which models compute, here and when they learn.

OpenMP keeps workers for every thread that ever computed. Where those are more than the cores, they
no longer spin at its barriers but sleep, and every operator pays for being woken: on two cores the
engine was a third slower once a learner had run in another thread (`benchmarks/engine.py`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

TORCH = ThreadPoolExecutor(1, thread_name_prefix="torch")
