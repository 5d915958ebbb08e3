"""The command line. Heavy modules are imported inside the commands that need them, so that help is instant."""

# isort: skip_file
from __future__ import annotations

import errno
import sys

from harness.cli import runs, plans, searches, board, records, doctor, lists, data  # noqa: F401 (their commands join the app, in the order of the help)
from harness.cli.app import app
from harness.errors import HarnessError


def main() -> None:
    """Run a command; an error the user can act on is one message and its exit code."""
    try:
        app()
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        place = error.filename or "its files"
        print(
            f"harness: cannot write {place}: {error.strerror}; make room, then the same command continues",
            file=sys.stderr,
        )
        sys.exit(2)
