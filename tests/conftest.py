"""Environment of the tests, and their common fixtures, which the process that only hands out tests does without."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # tests of downloads have a hub of their own

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker and what it starts: more threads would only wait
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, whose imports take seconds, where tests are run."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")
