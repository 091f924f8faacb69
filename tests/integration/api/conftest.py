"""The HTTP edge, served for one test."""

from collections.abc import AsyncIterator

import pytest

from tests.api import Edge, serving


@pytest.fixture
async def edge(database: str) -> AsyncIterator[Edge]:
    async with serving(database) as served:
        yield served
