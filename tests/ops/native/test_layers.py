import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from memsparse.errors import ShapeError
from memsparse.ops.attention import causal_attention
from memsparse.ops.native import layers, library


@pytest.fixture(params=[False, True], ids=["vectors", "tiles"])
def _bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model does in bfloat16, by each kernel there is for it."""
    if not layers.has_bfloat16() or (request.param and not library.has_tiles(torch.bfloat16)):
        pytest.skip("no such kernel here")
    if not request.param:
        monkeypatch.setattr(library, "TILED", {})


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


@pytest.mark.parametrize("width", [32, 192])
@pytest.mark.parametrize("outputs", [32, 96])
@pytest.mark.usefixtures("_bfloat16")
def test_a_linear_layer_makes_the_same_of_a_token_in_any_company(outputs: int, width: int) -> None:
    torch.manual_seed(outputs + width)
    tokens, weight = normal(70, width), normal(outputs, width)
    all_of_them = layers.linear(tokens, weight)
    exact = tokens.double() @ weight.double().T
    torch.testing.assert_close(all_of_them.double(), exact, atol=1e-4, rtol=2.0**-8)
    for count in (0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65):
        assert torch.equal(layers.linear(tokens[:count], weight), all_of_them[:count])
        assert torch.equal(layers.linear(tokens[70 - count :], weight), all_of_them[70 - count :])
    apart = torch.zeros(70, 2 * width, dtype=torch.bfloat16)
    apart[:, :width] = tokens
    assert torch.equal(layers.linear(apart[:, :width], weight), all_of_them)


@pytest.mark.parametrize("count", [0, 1, 16, 17, 31, 32, 33, 70])
@pytest.mark.usefixtures("_bfloat16")
def test_a_product_that_another_gates_is_that_of_both(count: int) -> None:
    torch.manual_seed(count)
    tokens, weight, passed = 4 * normal(count, 96), normal(64, 96), normal(64, 96)
    found = layers.linear(tokens, weight, passed)
    assert torch.equal(found, layers.gate(layers.linear(tokens, weight), layers.linear(tokens, passed)))


@pytest.mark.usefixtures("_bfloat16", "_two_threads")
def test_threads_share_a_linear_layer() -> None:
    tokens, weight = normal(3000, 512), normal(256, 512)
    both = layers.linear(tokens, weight)
    torch.set_num_threads(1)
    assert torch.equal(layers.linear(tokens, weight), both)


@pytest.mark.usefixtures("_bfloat16")
def test_a_linear_layer_that_does_not_fit_is_refused() -> None:
    tokens, weight = normal(4, 64), normal(32, 64)
    for bad_tokens, bad_weight in (
        (tokens.float(), weight),
        (tokens, weight.float()),
        (tokens[:, :32], weight),
        (tokens, weight[:31]),
        (normal(4, 40), normal(32, 40)),
        (tokens, normal(64, 32).T),
        (tokens.to("meta"), weight),
    ):
        with pytest.raises(ShapeError, match="of one width, and multiples of 32"):
            layers.linear(bad_tokens, bad_weight)
    for passed in (normal(64, 64), weight.float(), normal(32, 32)):
        with pytest.raises(ShapeError, match="of one width, and multiples of 32"):
            layers.linear(tokens, weight, passed)


@pytest.mark.parametrize("has_bias", [False, True], ids=["free", "biased"])
@pytest.mark.parametrize(
    ("tokens", "keys", "heads", "groups", "width"),
    [
        (1, 1, 1, 1, 32),
        (1, 70, 4, 2, 64),
        (5, 31, 8, 1, 32),
        (16, 32, 2, 2, 64),
        (33, 33, 3, 1, 32),
        (17, 97, 6, 2, 96),
    ],
)
@pytest.mark.usefixtures("_bfloat16")
def test_requests_attend_as_in_float64(
    tokens: int, keys: int, heads: int, groups: int, width: int, has_bias: bool
) -> None:
    torch.manual_seed(tokens + keys)
    q, k, v = normal(tokens, heads, width), normal(groups, keys, width), normal(groups, keys, width)
    bias = 4 * torch.randn(keys) if has_bias else None
    attended = layers.attend(q, [len(q)], [(k, v, bias)], width**-0.5)
    exact = causal_attention(q.double(), k.double(), v.double(), bias_S=bias, scale=width**-0.5)
    torch.testing.assert_close(attended.double(), exact, atol=2.0**-7, rtol=2.0**-7)


@pytest.mark.usefixtures("_bfloat16", "_two_threads")
def test_requests_attend_alone_as_in_company() -> None:
    torch.manual_seed(2)
    row = normal(200, 4, 64)  # the queries of a row, of which requests have their shares
    queries, keys = [], []
    for at, (tokens, seen) in enumerate([(1, 40), (60, 60), (7, 300), (30, 64)]):
        queries.append(row[sum(map(len, queries)) :][:tokens])
        room = normal(2, 2, seen + 9, 64)  # longer than what is seen, as a cache is
        keys.append((room[0, :, :seen], room[1, :, :seen], torch.randn(seen) if at % 2 else None))
    together = layers.attend(torch.cat(queries), [len(q) for q in queries], keys, 0.125)
    assert together.shape == (98, 4, 64)
    torch.set_num_threads(1)
    alone = [layers.attend(q, [len(q)], [key], 0.125) for q, key in zip(queries, keys, strict=True)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.usefixtures("_bfloat16", "_two_threads")
def test_keys_that_come_with_the_tokens_are_written_behind_the_others() -> None:
    torch.manual_seed(4)
    tokens, seen, added = [1, 60, 1, 30], [40, 60, 300, 64], [1, 60, 7, 0]
    q, own_k, own_v = normal(100, 4, 64), normal(70, 2, 64), normal(70, 2, 64)
    rooms = [normal(2, 2, keys + 9, 64) for keys in seen]
    written = [room.clone() for room in rooms]
    start = 0
    for room, keys, more in zip(written, seen, added, strict=True):
        here = slice(start, start + more)
        room[:, :, keys - more : keys] = torch.stack([own_k[here], own_v[here]]).transpose(1, 2)
        start += more
    keys, wanted = (
        [(room[0, :, :those], room[1, :, :those], None) for room, those in zip(each, seen, strict=True)]
        for each in (rooms, written)
    )
    found = layers.attend(q, tokens, keys, 0.125, (own_k, own_v, added))
    assert torch.equal(found, layers.attend(q, tokens, wanted, 0.125))
    assert all(map(torch.equal, rooms, written))
    assert not found[92:].any()


@pytest.mark.usefixtures("_bfloat16")
def test_keys_may_lie_token_by_token() -> None:
    torch.manual_seed(5)
    q, k, v, own = normal(40, 4, 64), normal(50, 2, 64), normal(50, 2, 64), normal(2, 40, 2, 64)
    across = [(k.transpose(0, 1), v.transpose(0, 1), None)]
    along = [(k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous(), None)]
    for added in (None, (*own, [40])):
        wanted = layers.attend(q, [40], along, 0.2, added)
        assert torch.equal(layers.attend(q, [40], across, 0.2, added), wanted)
    assert torch.equal(k[10:], own[0])
    assert torch.equal(v[10:], own[1])


@pytest.mark.usefixtures("_bfloat16")
def test_what_lies_behind_the_keys_does_not_matter() -> None:
    torch.manual_seed(3)
    q, k, v = normal(9, 2, 32), normal(1, 64, 32), normal(1, 64, 32)
    clean = layers.attend(q, [len(q)], [(k[:, :45], v[:, :45], None)], 0.2)
    k[:, 45:] = v[:, 45:] = float("nan")
    assert torch.equal(layers.attend(q, [len(q)], [(k[:, :45], v[:, :45], None)], 0.2), clean)


@pytest.mark.usefixtures("_bfloat16")
def test_extremes_of_a_softmax() -> None:
    q, v = torch.ones(1, 1, 32).bfloat16(), torch.arange(96.0).bfloat16().view(1, 3, 32)
    k = torch.tensor([-3e38, 0.0, 3e4]).bfloat16()[None, :, None].expand(1, 3, 32).contiguous()
    assert torch.equal(layers.attend(q, [len(q)], [(k, v, None)], 1.0)[0, 0], v[0, 2])
    even = layers.attend(q, [len(q)], [(torch.zeros_like(k), v, None)], 1.0)[0, 0]
    assert torch.equal(even, v[0].float().mean(0).bfloat16())
    one_hidden = layers.attend(q, [len(q)], [(torch.zeros_like(k), v, torch.tensor([0, -1e4, 0]))], 1.0)[0, 0]
    assert torch.equal(one_hidden, v[0, ::2].float().mean(0).bfloat16())
    assert layers.attend(q, [len(q)], [(torch.full_like(k, float("nan")), v, None)], 1.0).isnan().all()


@pytest.mark.usefixtures("_bfloat16")
def test_requests_that_do_not_fit_are_refused() -> None:
    q, k, v = normal(3, 4, 32), normal(2, 8, 32), normal(2, 8, 32)
    for queries, keys in (
        (q.float(), (k, v, None)),
        (q, (k.float(), v, None)),
        (q[:, :3], (k, v, None)),
        (q, (k[:, :2], v[:, :2], None)),
        (q, (k, v[:, :7], None)),
        (q, (k, v, torch.zeros(7))),
        (q, (k, v, torch.zeros(8, dtype=torch.float64))),
        (q[:0], (k, v, None)),
        (q, (k.transpose(1, 2).contiguous().transpose(1, 2), v, None)),
        (normal(3, 4, 40), (normal(2, 8, 40), normal(2, 8, 40), None)),
    ):
        with pytest.raises(ShapeError, match="rows in one piece"):
            layers.attend(queries, [len(queries)], [keys], 1.0)
    keys = k, v, None
    own = normal(3, 2, 32), normal(3, 2, 32)
    for tokens, added in (
        ([4], own),
        ([3], (own[0][:2], own[1][:2])),
        ([3], (own[0], own[1][:2])),
        ([3], (own[0], own[1].float())),
        ([3], (own[0][:, :1], own[1][:, :1])),
    ):
        with pytest.raises(ShapeError, match="rows in one piece"):
            layers.attend(q, tokens, [keys], 1.0, (*added, [3]))
    for added in ([9], [-1]):
        with pytest.raises(ShapeError, match="rows in one piece"):
            layers.attend(q, [3], [keys], 1.0, (normal(9, 2, 32), normal(9, 2, 32), added))


@pytest.fixture
def _kernel() -> None:
    if not layers.has_bfloat16():
        pytest.skip("no such kernel here")


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal but for single roundings to a neighbour."""
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2.0**-6, atol=2.0**-126)
    assert (found == wanted).float().mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 32), (3, 1, 5, 64), (2, 700, 192), (5, 4096)])
@pytest.mark.usefixtures("_kernel", "_two_threads")
def test_norms_are_those_of_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(sum(shape))
    theirs = Qwen3RMSNorm(shape[-1], eps=1e-5).bfloat16()
    theirs.weight.data = normal(shape[-1])
    rows = normal(*shape) * torch.rand(*shape[:-1], 1).exp().bfloat16()
    with torch.no_grad():
        found = layers.rms_norm(rows, theirs.weight, 1e-5)
        close(found, theirs(rows))
        assert torch.equal(layers.rms_norm(rows[-1:], theirs.weight, 1e-5), found[-1:])


@pytest.mark.usefixtures("_kernel")
def test_norms_of_extremes() -> None:
    rows = torch.zeros(4, 32).bfloat16()
    rows[1], rows[2, 3], rows[3] = 3e38, float("nan"), 1e-30
    found = layers.rms_norm(rows, torch.ones(32).bfloat16(), 1e-6)
    assert not found[:2].any()  # the square of the largest numbers is no float32, as in torch
    assert found[2].isnan().all()
    torch.testing.assert_close(found[3].float(), torch.full((32,), 1e-27), rtol=0.01, atol=0)


@pytest.mark.parametrize(("tokens", "heads", "width"), [((1, 1), 1, 32), ((2, 33), 6, 64), ((1, 500), 3, 96)])
@pytest.mark.usefixtures("_kernel", "_two_threads")
def test_rotations_are_those_of_torch(tokens: tuple[int, int], heads: int, width: int) -> None:
    torch.manual_seed(heads)
    rows, angles = normal(*tokens, heads, width), 6 * torch.rand(*tokens, width)
    turned = angles.cos().bfloat16(), angles.sin().bfloat16()
    wanted, _ = apply_rotary_pos_emb(rows, rows, *turned, unsqueeze_dim=2)
    assert torch.equal(layers.rotate(rows, *turned), wanted)


@pytest.mark.usefixtures("_kernel", "_two_threads")
def test_means_are_of_their_rows() -> None:
    torch.manual_seed(6)
    rows, starts, counts = normal(3000, 2, 48), torch.tensor([0, 2990, 7, 5]), torch.tensor([3000, 10, 1, 2])
    found = layers.pool(rows, starts, counts)
    wanted = [rows[at : at + count].double().mean(0) for at, count in zip(starts, counts, strict=True)]
    torch.testing.assert_close(found.double(), torch.stack(wanted), rtol=2.0**-8, atol=2.0**-16)
    assert torch.equal(found[2], rows[7])
    none = torch.empty(0, dtype=torch.long)
    assert layers.pool(rows, none, none).shape == (0, 2, 48)
    for start, count in ((0, 3001), (2990, 11), (-1, 2), (5, 0), (5, -1), (2**62, 1)):
        with pytest.raises(ShapeError, match="do not lie in 3000 rows"):
            layers.pool(rows, torch.tensor([start]), torch.tensor([count]))
    for bad in ((rows.float(), starts, counts), (rows, starts.int(), counts), (rows, starts, counts[:3])):
        with pytest.raises(ShapeError, match="rows and what changes them"):
            layers.pool(*bad)


@pytest.mark.parametrize("shape", [(1, 32), (2, 3, 96), (700, 512)])
@pytest.mark.usefixtures("_kernel", "_two_threads")
def test_gates_are_those_of_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(shape[-1])
    rows, passed = 8 * normal(*shape), normal(*shape)
    close(layers.gate(rows, passed), silu(rows) * passed)


@pytest.mark.usefixtures("_kernel")
def test_gates_of_extremes() -> None:
    inf = float("inf")
    rows = torch.tensor([0.0, -0.0, 3e38, -3e38, inf, float("nan"), 90.0, -90.0]).repeat(4).bfloat16()
    ones = torch.ones_like(rows)
    torch.testing.assert_close(
        layers.gate(rows, ones).float(), silu(rows.float()), rtol=2.0**-7, atol=1e-30, equal_nan=True
    )


@pytest.mark.usefixtures("_kernel")
def test_changes_that_do_not_fit_are_refused() -> None:
    rows, weight, turned = normal(4, 2, 64), normal(64), normal(4, 64)
    for bad in (
        rows.float(),
        rows[..., :40].contiguous(),
        rows.transpose(0, 1),
        rows[..., ::2],
        rows.to("meta"),
    ):
        with pytest.raises(ShapeError, match="a width that is a multiple of 32"):
            layers.rms_norm(bad, weight[: bad.shape[-1]], 1e-6)
        with pytest.raises(ShapeError, match="a width that is a multiple of 32"):
            layers.gate(bad, bad)
        with pytest.raises(ShapeError, match="a width that is a multiple of 32"):
            layers.rotate(bad, turned, turned)
    for run in (
        lambda: layers.rms_norm(rows, weight[:32], 1e-6),
        lambda: layers.gate(rows, rows[:3]),
        lambda: layers.rotate(rows, turned, turned[:3]),
        lambda: layers.rotate(rows, turned[:3], turned[:3]),
        lambda: layers.rotate(rows, turned[:, :32].contiguous(), turned),
    ):
        with pytest.raises(ShapeError, match="that fit"):
            run()


@pytest.mark.usefixtures("_kernel")
def test_nothing_is_changed_to_nothing() -> None:
    none, turned = normal(0, 2, 64), normal(0, 64)
    assert layers.rms_norm(none, normal(64), 1e-6).shape == (0, 2, 64)
    assert layers.gate(none, none).shape == (0, 2, 64)
    assert layers.rotate(none, turned, turned).shape == (0, 2, 64)
