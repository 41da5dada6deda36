"""``python -m leantune``."""

from __future__ import annotations

import sys

from leantune.cli.__main__ import main

sys.exit(main())
