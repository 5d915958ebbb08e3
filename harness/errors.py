"""What can go wrong in a way the user can act on; each kind carries the exit code of the command."""


class HarnessError(Exception):
    """Wrong usage, configuration, data or environment: says what was found, what was expected, and what to do."""

    exit_code = 2


class CheckFailed(HarnessError):
    """An invariant of the benchmark did not hold inside a run: the run stops rather than report a wrong number."""

    exit_code = 3


class Diverged(CheckFailed):
    """The loss is no longer finite."""


class Interrupted(HarnessError):
    """Stopped early on request; the same command continues the run."""

    exit_code = 75
