from collections.abc import Iterator

import pytest
import torch

from memsparse.ops.native import library
from memsparse.ops.native import selection as native


@pytest.fixture
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["c", "torch"])
def _each_way_to_select(request: pytest.FixtureRequest) -> Iterator[None]:
    """Documents are selected in C, where there is a library, then by torch."""
    if request.param == "c" and not library.is_built():
        pytest.skip("no library here")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(native, "can_select", lambda *_: False)
        yield
