"""Whether this process is draining: it was told to stop, and still serves so that a load balancer can notice it."""


class Lifecycle:
    def __init__(self) -> None:
        self.draining = False


process = Lifecycle()
"""The state of this process, since signals are for the whole process."""
