"""Pictures of the console for the documents: `make screenshots`.

Plays the demo, whose installation stays up for it, lets some things go wrong in it, and takes each
page by day and by night. Ends by itself.
"""

import asyncio
import sys
from contextlib import closing
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "demo"))

from demo import Story  # noqa: E402
from stage import HANDLER, I_ENV, NEXT_MONTH, Stage, free_port  # noqa: E402
