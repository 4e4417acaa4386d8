"""Whether this process has been told to stop. It goes on serving for a while, so that whoever sends it requests can
notice and send them elsewhere."""


class Lifecycle:
    def __init__(self) -> None:
        self.draining = False


process = Lifecycle()
"""This process's own: a signal is for the process, whatever runs in it."""
