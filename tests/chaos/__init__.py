"""Tests that kill server processes. They judge the server from outside, by the invariants of its design.

- ``crash_test.py`` is the command scripts/crash-test. It sends random traffic to a server process, kills it at a random
  moment or at a fail point, starts it again and checks the invariants. ``test_checker.py`` runs it against a server
  with one line of the design broken, and expects a violation.
- ``test_failpoints.py`` runs each operation once for each fail point that it passes and for each kind of fault.

Where to begin: ``plan.py`` draws what happens in a round, ``traffic.py`` and ``client.py`` send the calls, ``model.py``
keeps what each acknowledged call promises, ``answer_checks.py`` compares answers with the model, and ``rest_check.py``
compares both stores with it when nothing is in flight.
"""
