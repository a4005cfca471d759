"""How every command ends: 0 when done, 2 with one clear line on bad input, 130 after Ctrl-C."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from rlm_executor.errors import RLMError


def run_cli(main: Callable[[], int | None]) -> None:
    """Run ``main`` and leave the process; errors made for people become one line.

    A full disk is named as such; any other exception is a defect of ours and keeps its traceback.
    """
    try:
        code = main() or 0
    except RLMError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted: finished work is kept, run the same command to go on", file=sys.stderr)
        code = 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"error: the disk is full{where}; free some space, then run again", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.exit(code)
