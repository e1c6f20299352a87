import random

import pytest
import torch

from memsparse.bank.keys import KeyBlock
from memsparse.bank.places import Columns, Places


def block(*chunks: tuple[int, int]) -> KeyBlock:
    """A block of segments (id, chunks)."""
    starts, end = {}, 0
    for id_, count in chunks:
        starts[id_] = end
        end += count
    return KeyBlock(segments=(), starts=starts, chunks=end)


def test_an_empty_view() -> None:
    places = Places([])
    assert len(places) == 0
    assert places.spans({}) == []


@pytest.mark.parametrize("share", [1.0, 0.8, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_spans_cover_the_view_in_the_order_chunks_lie(seed: int, share: float) -> None:
    """Documents at random in three segments of two blocks, some of them not seen, numbers in any order."""
    rng = random.Random(seed)
    stored = [(segment, rng.randint(1, 4)) for segment in (4, 7, 9) for _ in range(20)]
    ends = {4: 0, 7: 0, 9: 0}
    rows = []
    for number, (segment, chunks) in zip(rng.sample(range(60), 60), stored, strict=True):
        rows.append((number, segment, ends[segment], chunks))
        ends[segment] += chunks
    seen = sorted(row for row in rows if rng.random() < share)
    one, two = block((4, ends[4]), (7, ends[7])), block((9, ends[9]))
    places = Places(seen)
    spans = places.spans({4: one, 7: one, 9: two})
    assert sorted(torch.cat([span.documents for span in spans]).tolist()) == list(range(len(seen)))
    for span in spans:
        starts = [span.block.starts[seen[i][1]] + seen[i][2] for i in span.documents.tolist()]
        assert span.starts.tolist() == starts == sorted(starts)
        assert span.visible == int(span.counts.sum()) == len(span.rows())
        expected = {
            chunk: i
            for i, at in zip(span.documents.tolist(), starts, strict=True)
            for chunk in range(at, at + seen[i][3])
        }
        columns = span.columns(torch.device("cpu"))
        assert span.columns(torch.device("cpu")) is columns
        assert bool((columns.of_chunk.diff() >= 0).all())
        chosen = torch.arange(columns.count) if columns.chosen is None else columns.chosen
        document = dict(zip(chosen.tolist(), span.documents.tolist(), strict=True))
        assert (span.reach.start, span.reach.stop) == (starts[0], starts[-1] + int(span.counts[-1]))
        chunks = span.rows().tolist() if span.sparse else span.reach
        for chunk, column in zip(chunks, columns.of_chunk.tolist(), strict=True):
            assert document.get(column) == expected.get(chunk)
        for size in (1, 3, 10, 1000):
            check_tiles(columns, size, len(span.documents))
        asked = torch.arange(0, len(seen) + 3, 2)
        places, which = span.find(asked)
        assert torch.equal(span.documents[places], asked[which])
        assert set(asked[which].tolist()) == set(asked.tolist()) & set(span.documents.tolist())


def check_tiles(columns: Columns, size: int, documents: int) -> None:
    """Tiles follow each other, end where documents do, and miss no document."""
    tiles = columns.tiles(size)
    assert columns.tiles(size) is tiles
    owners = columns.of_chunk.tolist()
    assert [chunk for tile in tiles for chunk in tile.chunks] == list(range(len(owners)))
    assert [index for tile in tiles for index in tile.seen] == list(range(documents))
    for tile, after in zip(tiles, [*tiles[1:], None], strict=True):
        own = owners[tile.chunks.start : tile.chunks.stop]
        assert after is None or len(own) >= size
        assert len(own) < size + own.count(own[-1])
        assert after is None or own[-1] < owners[after.chunks.start]
        assert set(own) <= set(tile.columns)
        chosen = range(documents) if columns.chosen is None else columns.chosen.tolist()
        assert {chosen[index] for index in tile.seen} <= set(tile.columns)


def test_where_is_a_slice_for_consecutive_documents() -> None:
    one = block((1, 12))
    [span] = Places([(3, 1, 0, 2), (5, 1, 2, 4)]).spans({1: one})
    assert span.where(range(2)) == slice(0, 2)
    assert span.where(range(1, 2)) == slice(1, 2)
    [span] = Places([(3, 1, 2, 4), (5, 1, 0, 2)]).spans({1: one})
    assert not span.ascending
    assert span.where(range(2)).tolist() == [1, 0]
    places, which = span.find(torch.tensor([0, 1, 7]))
    assert (places.tolist(), which.tolist()) == ([0, 1], [1, 0])
    first, second = Places([(1, 1, 0, 1), (2, 2, 0, 1), (3, 1, 1, 1)]).spans({1: one, 2: block((2, 1))})
    assert first.where(range(2)).tolist() == [0, 2]
    assert second.where(range(1)) == slice(1, 2)
