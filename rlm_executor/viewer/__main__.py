"""A page of runs from their journals.

    python -m rlm_executor.viewer runs/demo --out runs/demo/view.html --open

A path is a journal or a folder, which is searched for them; rows of a data run and of an
evaluation add family, score and what was dropped. The page is one file that works offline.
"""

from __future__ import annotations

import argparse
import os
import webbrowser
from pathlib import Path

from rlm_executor.cli import run_cli
from rlm_executor.viewer.page import write_page


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, write, say where."""
    parser = argparse.ArgumentParser(
        prog="rlm_executor.viewer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("view.html"), metavar="FILE",
        help="default: view.html, here",
    )  # fmt: skip
    parser.add_argument("--open", action="store_true", help="show it in a browser, if there is one")
    args = parser.parse_args(arguments)
    runs = write_page(args.paths, args.out)
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {runs:,} run{'s' if runs != 1 else ''}, {size:.1f} MB")
    # Without a screen there are text browsers at most, which cannot show it.
    if args.open and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(args.out.resolve().as_uri())
    return 0


if __name__ == "__main__":
    run_cli(main)
