"""Stops a script with one clear line when its Python is too old; parses and runs on Python 3.6."""

import os
import subprocess
import sys

OLDEST = (3, 11)
NEWEST = (3, 14)  # the newest that the pinned vLLM installs on


def require_python(command):
    """Leave with exit code 2 unless this Python will do; ``command`` has a {} for one that will."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    found = next((name for name in _wanted() if _works(name)), None)
    fix = "run `%s`" % command.format(found) if found else "install one of them first"
    sys.stderr.write(
        "error: this is Python %d.%d (%s), and %d.%d to %d.%d are supported; %s\n"
        % (*sys.version_info[:2], sys.executable, *OLDEST, *NEWEST, fix)
    )
    sys.exit(2)


def _wanted():
    return ["python3.%d" % minor for minor in range(OLDEST[1], NEWEST[1] + 1)]


def _works(name):
    # A version manager leaves names on the path that only print an error: so start it.
    with open(os.devnull, "w") as devnull:
        try:
            return subprocess.call([name, "-c", ""], stdout=devnull, stderr=devnull) == 0
        except OSError:
            return False
