"""Simulated servers: the real core over in-memory stores, on virtual time, with faults that a seed draws.

One run (``run.py``) has several server processes, clients that call them, and faults: lost answers, writes that land
late or twice, crashes, pauses, restores of PostgreSQL and losses of Milvus. Then ``invariants.py`` checks what clients
saw and what is left in the stores. The same seed gives the same run on every machine. scripts/simulate runs many seeds.

Where to begin: ``loop.py`` is the event loop whose clock is virtual. ``world.py`` holds the stores, processes and
clients of a run. ``process.py`` is a server process: it builds the core over ``remote_stores.py``, whose calls have the
faults of ``faults.py``. ``milvus.py`` is a model of Milvus. ``workload.py`` has the clients. What they did
and saw is recorded in ``history.py`` by ``requests.py``.
"""
