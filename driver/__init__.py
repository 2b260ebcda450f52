"""The driver of the series, one job a module (README.md in this folder says which), and the exceptions that they share."""


class Refused(Exception):
    """The command cannot be carried out as given; its text says what is wrong and what to type instead."""


class Stopped(KeyboardInterrupt):
    """The signal `number` asked the run to stop (asyncio lets nothing but a KeyboardInterrupt through)."""

    @property
    def number(self) -> int:
        """Return the signal's number."""
        return self.args[0]


class Unmade(Exception):
    """All cells ran, but what the stage is there to make is missing or not whole."""


class CellFailed(Exception):
    """A cell did not come to its end: its place in the notebook that ran, the cause, and what to do about it."""

    def __init__(self, index: int, cause: str, fix: str = ""):
        super().__init__(index, cause, fix)  # all of them, as they are what comes back from another process
        self.index = index
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        return self.cause


class KernelKilled(CellFailed):
    """The kernel was killed from outside while a cell ran."""


class Failed(Exception):
    """Stages did not finish: their `failures` (scheduler.Failure), and the names of those `not_started` as they need them."""

    def __init__(self, failures: tuple, not_started: tuple[str, ...]):
        super().__init__(failures, not_started)
        self.failures = failures
        self.not_started = not_started
