"""How does a command end? With an exit code, and one line when it failed, whatever failed.

Runs in: the main thread of a command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable, NoReturn, Optional

from opensvc_hb.errors import HbError


def os_error_text(error: OSError) -> str:
    """Return what failed: one without a file is the output's, since all else names its own."""
    reason = error.strerror or str(error)
    return f"output cannot be written: {reason}" if error.filename is None else f"{error.filename}: {reason}"


def run_to_end(
    name: str, run: Callable[[], int], failed: int, code_of: Optional[Callable[[HbError], int]] = None
) -> NoReturn:
    """Run a command line and exit; an error becomes one line.

    Args:
        name: what the line begins with.
        run: does it all, and returns the exit code.
        failed: the exit code of what fails.
        code_of: that of an operator's mistake, where it is another.
    """
    if sys.stdout is None:  # started with it closed: what would be printed goes nowhere
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # the process's own, open until it ends
    try:
        try:
            code = run()
        except HbError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = failed if code_of is None else code_of(error)
        except OSError as error:
            if error.filename is None:
                raise
            print(f"{name}: {os_error_text(error)}", file=sys.stderr)
            code = failed
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left cannot be written at exit either
        if not isinstance(error, BrokenPipeError):
            print(f"{name}: {os_error_text(error)}", file=sys.stderr)
        code = failed
    except KeyboardInterrupt:
        code = failed
    sys.exit(code)
