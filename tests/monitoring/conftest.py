"""Marks its tests; they need Prometheus, which is no package of Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from monitoring.prometheus import why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("processes")
            if (reason := why_not()) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
