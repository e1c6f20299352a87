import pytest
import torch

from memsparse.engine import hardware
from memsparse.engine.hardware import CARDS, of_machine, read_count, read_counts, read_hardware, read_size
from memsparse.errors import ConfigError
from memsparse.machine import Machine

CPU = Machine(
    name="a processor",
    device="cpu",
    cores=2,
    threads=2,
    host_bytes=24 * 2**30,
    accelerators=0,
    accelerator_bytes=0,
    bandwidth=2e10,
    peaks={"float32": 1e11, "bfloat16": 4e11},
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100M", 100_000_000),
        ("1.5B", 1_500_000_000),
        ("64k", 64_000),
        ("64K", 64_000),
        ("10_000", 10_000),
        ("10,000", 10_000),
        (" 7 ", 7),
        ("2T", 2 * 10**12),
    ],
)
def test_counts(text, count):
    assert read_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "0.0001k", "1e6", "many", "1 2", "5GB", "1.2.3M"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ConfigError, match=r"64k, 100M or 1\.5B"):
        read_count(text)


def test_several_counts_ascend_and_none_is_twice_there():
    assert read_counts("10M, 1M,1M") == [10**6, 10**7]
    with pytest.raises(ConfigError, match="--tokens is ''"):
        read_counts("1M,,2M", "--tokens")


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80 * 10**9), ("512GiB", 512 * 2**30), ("1.5tb", 1.5e12), ("100", 100)]
)
def test_sizes(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["80 G", "GB", "-5GB", "0GB", "80M"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="80GB, 512GiB or 2TB"):
        read_size(text)


def test_a_card_by_name_has_its_data_sheet():
    found = read_hardware("2xH100", "512GB")
    assert (found.accelerators, found.accelerator_bytes, found.host_bytes) == (2, 80 * 10**9, 512 * 10**9)
    assert found.bandwidth == CARDS["h100"].bandwidth
    assert any("data sheet" in line for line in found.assumed)
    assert read_hardware("h200").accelerator_bytes == CARDS["h200"].memory


def test_a_card_by_size_is_as_slow_as_the_slowest_of_that_size():
    found = read_hardware("1x80GB")
    assert found.accelerator_bytes == 80 * 10**9
    assert found.bandwidth == CARDS["a100"].bandwidth < CARDS["h100"].bandwidth
    assert read_hardware("4x100GB").accelerator_bytes == 100 * 10**9
    assert read_hardware("16GB").bandwidth == CARDS["4090"].bandwidth


@pytest.mark.parametrize("gpu", ["nonsense", "", "0x80GB", "x80GB", "80", "1x", "1x80", "-1x80GB", "1x h900"])
def test_what_is_no_card_is_refused_in_one_line(gpu):
    with pytest.raises(ConfigError, match=r"--gpu is .*1x80GB") as caught:
        read_hardware(gpu)
    assert "\n" not in str(caught.value)


def test_this_machine_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(hardware, "measure_machine", lambda device: asked.append(device) or CPU)
    found = read_hardware("none")
    assert asked == [torch.device("cpu")]
    assert (found.accelerators, found.peak, found.bandwidth) == (0, 4e11, 2e10)
    assert found.link == found.bandwidth
    assert read_hardware("NONE", "8GiB").host_bytes == 8 * 2**30


def test_an_accelerator_here_has_a_link_that_is_assumed():
    values = {name: getattr(CPU, name) for name in Machine.__dataclass_fields__}
    gpu = Machine(**values | {"accelerators": 2, "accelerator_bytes": 10**10, "device": "cuda"})
    found = of_machine(gpu)
    assert (found.accelerators, found.accelerator_bytes) == (2, 10**10)
    assert any("host sends" in line for line in found.assumed)
