"""The pictures in docs/html-report.md: an HTML report of a real run in light and dark and on a phone, taken in headless Chromium.

    niah sweep --model baseline/bm25 --model hf/bundled ... --out RUN
    niah report RUN --html
    python benchmarks/screenshots.py RUN/report.html [--out docs/pictures]

Needs chromium (make browser) and the extra niah[test]. Prints the size of each picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser import Watched, chromium, missing  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(f"error: {reason}")
    options.out.mkdir(parents=True, exist_ok=True)
    with chromium() as context:
        watched = Watched(context.new_page())
        take(watched.open(options.report.resolve()), options.out)
    if watched.complaints or len(watched.requests) > 1:
        sys.exit(f"error: {watched.complaints} {watched.requests}")


def take(tab: Any, out: Path) -> None:
    """Three pictures: the page with the numbers of a cell; a missed trial opened, in the dark; the page on a phone."""
    tab.emulate_media(color_scheme="light", reduced_motion="reduce")
    tab.set_viewport_size({"width": 1180, "height": 800})
    tab.locator("td[role=gridcell]").nth(-2).hover()
    save(tab, out / "report-light.png")
    tab.emulate_media(color_scheme="dark", reduced_motion="reduce")
    tab.set_viewport_size({"width": 1000, "height": 800})
    tab.locator("#filter-outcome").select_option("miss")
    tab.get_by_role("button", name="List trials").click()
    tab.locator("#list tbody button").last.click()
    tab.wait_for_timeout(300)
    save(tab, out / "report-dark.png")
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Clear").click()
    tab.emulate_media(color_scheme="light", reduced_motion="reduce")
    tab.set_viewport_size({"width": 360, "height": 1180})
    tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    save(tab, out / "report-phone.png")


def save(tab: Any, path: Path) -> None:
    tab.wait_for_timeout(200)
    tab.screenshot(path=str(path))
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
