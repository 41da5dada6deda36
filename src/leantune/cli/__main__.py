"""Where the command starts: Ctrl-C is one line from the first import on."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command; returns the exit code."""
    try:
        from leantune.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("leantune: error: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
