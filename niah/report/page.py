"""One HTML file for a run: what page_data.py holds, and the program in niah/report/web that shows it.

The file is complete and asks for nothing. Its Content-Security-Policy forbids every address, and every script and style but its own,
which it names by their hashes. No text of a model, a corpus or a user stands in the HTML: the data is compressed and in base64, and the
program puts text into the page as text only.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_WEB = Path(__file__).parent / "web"
SCRIPTS = ("numbers.js", "text.js", "heatmap.js", "tables.js", "trials.js", "page.js")
"""In this order they are one module."""
NOBODY, LIVE = "'none'", "'self'"
"""Whom a page may ask for data: a file nobody, the page of a server that server."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def page(data: Mapping[str, Any]) -> bytes:
    """The file that shows `data`."""
    return _html(base64.b64encode(zlib.compress(encoded(data), 6)).decode(), NOBODY)


def live_page() -> bytes:
    """The page that asks the server it comes from for its data, again and again."""
    return _html("", LIVE)


def encoded(data: Mapping[str, Any]) -> bytes:
    """The data as JSON; half a surrogate pair, which UTF-8 cannot write, becomes its escape."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text).encode()


def policy(connect: str) -> str:
    """The Content-Security-Policy of a page that may ask `connect` for data."""
    style, script = _assets()[1:]
    parts = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": connect,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _html(data: str, connect: str) -> bytes:
    html, style, script = _assets()
    parts = {"policy": policy(connect), "style": style, "script": script, "data": data}
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], html).encode()


@cache
def _assets() -> tuple[str, str, str]:
    """HTML, style and script."""
    html, style = ((_WEB / name).read_text(encoding="utf-8") for name in ("page.html", "page.css"))
    return html, f"\n{style}", "\n" + "\n".join((_WEB / name).read_text(encoding="utf-8") for name in SCRIPTS)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
