"""Shards merged are the whole: in one process, every claim about the one reader."""

from dataclasses import fields
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memsparse.bank import Bank
from memsparse.bank.tiers import TierConfig
from memsparse.distributed.merging import Candidates, candidates, contents, cut_evenly, join, merge, narrow
from memsparse.distributed.shard import open_shard
from memsparse.types import MemoryKV
from tests.bank.builders import FINGERPRINT, add, make_chunks, make_passages, queries

LAYER = 3
EVERYTHING = {"namespace": None, "version": None, "now": 0.0}


def assert_equal(mine: MemoryKV, whole: MemoryKV) -> None:
    """All the same, but for how tightly the scores of documents that were not selected are known."""
    for field in fields(MemoryKV):
        ours, theirs = getattr(mine, field.name), getattr(whole, field.name)
        if field.name in ("all_scores", "errors", "certified"):
            continue
        assert (ours is None) == (theirs is None), field.name
        if ours is not None:
            assert ours.dtype == theirs.dtype, field.name
            assert torch.equal(ours, theirs), field.name
    assert all(memory.certified is None or bool(memory.certified.all()) for memory in (mine, whole))
    assert mine.all_scores is not None
    off = torch.zeros_like(mine.all_scores)
    for memory in (mine, whole):
        off = off + (0 if memory.errors is None else memory.errors)
    close = (mine.all_scores - whole.all_scores).abs().nan_to_num() <= off + 1e-6
    assert mine.all_scores.shape == whole.all_scores.shape
    assert bool(close.all())


def read_sharded(
    bank: Bank, ranks: int, routing_q: torch.Tensor, mask: torch.Tensor, **view: object
) -> MemoryKV:
    """`ShardedReader.read` without the processes."""
    shards = [open_shard(bank, EVERYTHING | view, rank, ranks) for rank in range(ranks)]
    whole = shards[0]
    memories = [shard.reader.read(LAYER, routing_q, mask) for shard in shards]
    parts = [candidates(kv, shard.first) for kv, shard in zip(memories, shards, strict=True)]
    best, kept = merge(parts, min(shards[0].reader.top_k, len(whole.numbers)))
    lengths = [(part.slots * those).sum(1).tolist() for part, those in zip(parts, kept, strict=True)]
    return join(best, lengths, [contents(kv, those) for kv, those in zip(memories, kept, strict=True)])


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    """150 documents of 1 to 6 chunks in four segments, every fourth a copy of another, so that scores tie."""
    opened = Bank.create(tmp_path_factory.mktemp("banks") / "notes.bank", FINGERPRINT)
    generator = torch.Generator().manual_seed(3)
    for seed in range(4):
        counts = torch.randint(1, 7, (37,), generator=generator).tolist()
        counts.append(counts[0])
        passages = make_passages(list(opened.reserve(len(counts))))
        chunks = make_chunks(counts, seed=seed % 3)
        ends = [0, *accumulate(counts)]
        for layers in (chunks.routing_k, chunks.k, chunks.v):
            for tensor in layers.values():
                tensor[ends[-2] :] = tensor[: counts[0]]
        opened.commit(passages, chunks)
    return opened


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ranks=st.integers(1, 9),
    top_k=st.sampled_from([1, 2, 5, 16, 400]),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 9),
    keys=st.sampled_from(["auto", "int8", "binary"]),
)
def test_shards_merged_are_one_reader(bank, ranks, top_k, lengths, seed, keys):
    routing_q = queries(len(lengths), max(lengths), seed=seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tiers = TierConfig(routing_keys=keys)
    whole = bank.reader(top_k=top_k, tiers=tiers).read(LAYER, routing_q, mask)
    assert_equal(read_sharded(bank, ranks, routing_q, mask, top_k=top_k, tiers=tiers), whole)


@pytest.mark.parametrize("documents", [0, 1, 3])
def test_more_ranks_than_documents(tmp_path: Path, documents: int):
    bank = Bank.create(tmp_path / "small.bank", FINGERPRINT)
    add(bank, [2, 1, 4][:documents])
    routing_q, mask = queries(2), torch.ones(2, 3, dtype=torch.bool)
    whole = bank.reader(top_k=2).read(LAYER, routing_q, mask)
    merged = read_sharded(bank, 5, routing_q, mask, top_k=2)
    if documents:
        assert_equal(merged, whole)
    else:
        assert (merged.k.shape, merged.documents.shape) == (whole.k.shape, whole.documents.shape)


def test_a_view_is_cut_not_the_bank(tmp_path: Path):
    bank = Bank.create(tmp_path / "rooms.bank", FINGERPRINT)
    for room in ("a", "b"):
        add(bank, [1, 2, 3, 2], namespace=room, prefix=room)
    bank.remove(["b5"], namespace="b")
    shards = [open_shard(bank, EVERYTHING | {"namespace": "b", "top_k": 2}, rank, 3) for rank in range(3)]
    assert shards[0].numbers.tolist() == [4, 6, 7]
    assert [len(shard.reader) for shard in shards] == list(shards[0].documents) == [1, 1, 1]
    assert len({shard.digest for shard in shards}) == 1
    assert open_shard(bank, EVERYTHING | {"namespace": "a", "top_k": 2}, 0, 3).digest != shards[0].digest


def test_without_the_scores_of_all_documents_nothing_else_changes(bank):
    kv = bank.reader(top_k=3).read(LAYER, queries(), torch.ones(2, 3, dtype=torch.bool))
    full, few = candidates(kv, 7), candidates(kv, 7, all_scores=False)
    assert few.all_scores is None
    assert few.errors is None
    assert few.tensors().keys() == full.tensors().keys() - {"all_scores", "errors"}
    assert torch.equal(few.documents, kv.documents + 7)


def test_one_uncertified_shard_leaves_the_whole_uncertified():
    def part(first: int, certified: list[bool] | None) -> Candidates:
        none = torch.zeros(2, 1, dtype=torch.long)
        return Candidates(
            documents=none + first,
            scores=torch.zeros(2, 1),
            chunks=none,
            slots=none + 1,
            certified=None if certified is None else torch.tensor(certified),
        )

    best, kept = merge([part(0, [True, True]), part(1, None), part(2, [True, False])], 2)
    assert best.certified is not None
    assert best.certified.tolist() == [True, False]
    assert best.documents.tolist() == [[0, 1], [0, 1]]  # equal scores: the lower documents
    assert [those[:, 0].tolist() for those in kept] == [[True, True], [True, True], [False, False]]
    assert merge([part(0, None)], 1)[0].certified is None


def test_what_was_stored_narrow_travels_narrow():
    stored = torch.randn(5, 2, 4).bfloat16().float()
    assert torch.equal(narrow(stored, torch.bfloat16), stored.bfloat16())
    finer = stored + 2.0**-20
    assert narrow(finer, torch.bfloat16) is finer
    assert narrow(stored, torch.float32) is stored


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 12))
def test_runs_are_contiguous_complete_and_even(weights, parts):
    runs = cut_evenly(weights, parts)
    assert len(runs) == parts
    assert (runs[0][0], runs[-1][1]) == (0, len(weights))
    assert all(end == first for (_, end), (first, _) in pairwise(runs))
    assert all(first <= end for first, end in runs)
    share = sum(weights) / parts
    assert all(sum(weights[first:end]) <= share + max(weights, default=0) for first, end in runs)
