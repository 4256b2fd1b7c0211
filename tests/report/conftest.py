"""One browser for the tests of a module."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import Watched, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as context:
        yield context


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    tab = browser.new_page()
    yield Watched(tab)
    tab.close()
