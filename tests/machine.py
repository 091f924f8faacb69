"""What a machine may lack. A test that needs it is skipped by its name; under CI=true a skip fails the run."""

import shutil

import pytest


def program(*names: str) -> str:
    """The path of the first of these programs that is installed; where none is, the test is skipped and says so."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{' or '.join(names)} is not installed on this machine")
