"""What the interpreter does not see: whether the compiler takes the kernels for an H200, and what it makes.

No GPU is needed: triton brings its assembler, and a stand-in for the driver names the target.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from memsparse.ops import triton_scan
from memsparse.ops.quantization import quantize_keys, unpack_codes

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_MEMORY = 227 * 1024
"""Bytes one program may take on sm_90."""

pytestmark = pytest.mark.skipif(
    not triton_scan.has_triton(), reason="needs triton; it comes with torch for CUDA, or with memsparse[dev]"
)

COMPILER = r"""
import json, re, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Hopper:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0


class Compiling:
    # Stands for a kernel: compiles what it is called with, in every configuration, and launches nothing.
    def __init__(self, kernel, configs):
        self.kernel, self.configs = kernel, configs

    def __getitem__(self, grid):
        def call(*args, **meta):
            for config in self.configs(meta):
                built = self.kernel.run(*args, grid=(1, 1, 1), warmup=True, **meta, **config)
                forms = set(re.findall(r"wgmma[.]mma_async[.]sync[.]aligned[.](\S+)", built.asm["ptx"]))
                print(json.dumps([name, self.kernel.__name__, built.metadata.shared, sorted(forms)]))
        return call


driver.set_active(Hopper())
from memsparse.ops import triton_kernels as kernels, triton_scan
from memsparse.ops.quantization import quantize_keys

limit, shapes = json.loads(sys.argv[1])


def fitting(meta):
    return kernels.fitting(kernels.CONFIGS, {}, **meta | {"size": kernels.WORTH_TUNING})


tuner = kernels.scan
kernels.scan = Compiling(
    tuner.fn, lambda meta: [c.all_kwargs() for c in fitting(meta)[:limit]]
)
kernels.split_queries = Compiling(kernels.split_queries, lambda meta: [{}])
kernels.select = Compiling(kernels.select, lambda meta: [{}])
for batch, tokens, width, filtered in shapes:
    for name in triton_scan.FORMATS:
        keys = quantize_keys(torch.randn(3, width), name)
        mask = torch.ones(batch, tokens, dtype=torch.bool)
        allowed = torch.ones(batch, 2, dtype=torch.bool) if filtered else None
        q = torch.randn(batch, tokens, width)
        triton_scan.scan_documents(q, keys, torch.arange(3) // 2, mask, num_documents=2, allowed=allowed)
triton_scan.top_documents(torch.randn(2, 3000), 16)
"""


def compiled(folder: Path, limit: int, shapes: list[tuple[int, int, int, bool]]) -> list[list]:
    """Compile for sm_90, at most `limit` configurations each: format, kernel, shared memory, wgmma forms."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", COMPILER, json.dumps([limit, shapes])],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=REPOSITORY,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def run_ptx(text: str, word: np.ndarray) -> np.ndarray:
    """The few instructions `_unpacking` uses, on 32-bit words."""
    operations = {
        "shr.b32": np.right_shift,
        "and.b32": np.bitwise_and,
        "or.b32": np.bitwise_or,
        "xor.b32": np.bitwise_xor,
        "mul.lo.u32": np.multiply,
    }
    registers = {"$1": word}
    body = text.removeprefix("{ .reg .b32 t, u; ").removesuffix(" }")
    for statement in filter(None, map(str.strip, body.split(";"))):
        name, operands = statement.split(maxsplit=1)
        target, *sources = operands.split(", ")
        values = [registers[s] if s in registers else np.uint32(int(s, 0)) for s in sources]
        registers[target] = operations[name](*values)
    return registers["$0"]


@pytest.mark.parametrize("key_format", ["int4", "binary"])
def test_packed_codes_are_unpacked_in_the_compiler_as_in_torch(key_format):
    from memsparse.ops.triton_kernels import _unpacking  # needs triton

    planes = triton_scan.PLANES[key_format]
    keys = quantize_keys(torch.randn(50, 256), key_format)
    words = keys.codes.numpy().view(np.uint32)
    found = [run_ptx(_unpacking(plane, planes), words).view(np.int8) for plane in range(planes)]
    assert np.array_equal(np.concatenate(found, axis=1), unpack_codes(keys).numpy())


PRODUCTS = {
    "bf16": "k16.f32.bf16.bf16",
    "fp8": "k16.f32.f16.f16",
    "int8": "k32.s32.s8.s8",
    "int4": "k32.s32.s8.s8",
    "binary": "k32.s32.s8.s8",
}


def test_every_format_compiles_for_an_h200_and_multiplies_on_its_tensor_cores(tmp_path):
    found = compiled(tmp_path, 1, [(1, 32, 1024, True)])
    scans = {name: (shared, products) for name, kernel, shared, products in found if kernel == "scan"}
    assert {name: products for name, (_, products) in scans.items()} == {
        name: [f"m64n32{product}"] for name, product in PRODUCTS.items()
    }
    assert all(shared <= SHARED_MEMORY for shared, _ in scans.values())
    assert {kernel for _, kernel, _, _ in found} == {"scan", "split_queries", "select"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_configuration_compiles(tmp_path):
    found = compiled(
        tmp_path, 99, [(1, 32, 1024, False), (2, 32, 1024, True), (16, 64, 1024, False), (3, 5, 72, False)]
    )
    scans = [(name, shared, products) for name, kernel, shared, products in found if kernel == "scan"]
    # Seven configurations; where sums would not fit, four: 64 tokens in two parts of integers, 128 tokens.
    counts = {"bf16": 25, "fp8": 25, "int8": 22, "int4": 25, "binary": 25}
    assert Counter(name for name, _, _ in scans) == counts
    assert all(product.endswith(PRODUCTS[name]) for name, _, products in scans for product in products)
    assert all(products for _, _, products in scans)
    assert all(shared <= SHARED_MEMORY for name, shared, _ in scans if name != "binary")
