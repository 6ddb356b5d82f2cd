"""What every test of networks needs."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Networks as small as these spend ten times their work on threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
