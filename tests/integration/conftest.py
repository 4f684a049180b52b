"""Which event loops the tests of a module run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Those that the module names in ``LOOPS``; the one of the standard library by default."""
    default = {"asyncio": asyncio.new_event_loop}
    assert isinstance(item, pytest.Function)
    return getattr(item.module, "LOOPS", default)
