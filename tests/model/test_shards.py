from pathlib import Path

import pytest
import torch

from memsparse.errors import ModelError
from memsparse.model.shards import ShardWriter, SourceWeights


@pytest.mark.parametrize(("limit", "files"), [(10**6, 1), (16, 3), (1, 5)])
def test_what_is_written_in_any_number_of_files_reads_back(limit: int, files: int, tmp_path: Path) -> None:
    weights = {f"w{number}": torch.arange(2.0) + number for number in range(5)}  # 8 bytes each
    writer = ShardWriter(tmp_path, limit)
    for name, tensor in weights.items():
        writer.add(name, tensor)
    assert writer.finish() == 40
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert (tmp_path / "model.safetensors.index.json").is_file() == (files > 1)
    with SourceWeights(tmp_path) as source:
        assert set(source.names) == set(weights)
        assert all(torch.equal(source.read(name), tensor) for name, tensor in weights.items())
        assert source.shape("w0") == (2,)


def test_a_weight_larger_than_the_limit_gets_a_file_of_its_own(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 16)
    for name, size in {"small": 1, "large": 100, "last": 1}.items():
        writer.add(name, torch.zeros(size))
    writer.finish()
    assert len(list(tmp_path.glob("model-0000?-of-00003.safetensors"))) == 3


def test_an_empty_folder_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model.safetensors"):
        SourceWeights(tmp_path)
