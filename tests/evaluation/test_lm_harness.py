import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memsparse.errors import ConfigError
from tests.tiny import save_tiny_model

pytest.importorskip("lm_eval")

from memsparse.evaluation import lm_harness
from memsparse.evaluation.lm_harness import MemSparseLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> MemSparseLM:
    return MemSparseLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=3)


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each if isinstance(each, tuple) else (each,)) for each in arguments]


def next_logprobs(model: MemSparseLM, tokens: Sequence[int]) -> torch.Tensor:
    """What may follow these tokens, one plain pass without batch, padding or cache."""
    with torch.no_grad():
        logits = model.loaded.model(input_ids=torch.tensor([list(tokens)])).logits[0, -1]
    return torch.log_softmax(logits, -1)


def by_hand(model: MemSparseLM, before: list[int], scored: list[int]) -> tuple[float, bool]:
    """Token after token: log-likelihood, and whether each was the likeliest."""
    total, greedy = 0.0, True
    for at, token in enumerate(scored):
        logprobs = next_logprobs(model, (before + scored[:at])[-model.max_length :])
        total += float(logprobs[token])
        greedy &= int(logprobs.argmax()) == token
    return total, greedy


def greedy(model: MemSparseLM, tokens: list[int], count: int) -> list[int]:
    written: list[int] = []
    for _ in range(count):
        written.append(int(next_logprobs(model, tokens + written).argmax()))
    return written


PAIRS = [
    ("the kestrel is moored in", " the harbour"),
    ("", "the kestrel"),
    ("please answer the question based on the above", " historical document information of sarno"),
    ("a", "b"),
    ("the harbour ", "of sarno"),
    ("the user's question", " is: documents"),
    (" ", "sarno"),
]


def test_the_name_is_registered(folder: Path) -> None:
    from lm_eval.api.registry import get_model

    assert get_model("memsparse") is MemSparseLM
    made = MemSparseLM.create_from_arg_string(
        f"pretrained={folder},dtype=float32", {"batch_size": 2, "device": "cpu", "max_batch_size": None}
    )
    assert (made.batch_size, made.max_length, str(made.device)) == (2, 4096, "cpu")
    assert get_model("hf"), "the harness's own models stay known"


@pytest.mark.parametrize("batch_size", [1, 2, 7, "auto"])
def test_loglikelihood_is_the_sum_of_single_steps(folder: Path, batch_size: int | str) -> None:
    model = MemSparseLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch_size)
    results = model.loglikelihood(requests(*PAIRS), disable_tqdm=True)
    for (context, continuation), (logprob, is_greedy) in zip(PAIRS, results, strict=True):
        whole = model.tok_encode(context + continuation)
        before = model.tok_encode(context.rstrip()) if context else []
        wanted = by_hand(model, before or [model.prefix_token_id], whole[len(before) :])
        assert logprob == pytest.approx(wanted[0], abs=1e-3), (context, continuation)
        assert is_greedy == wanted[1]


def test_what_greed_writes_is_flagged(model: MemSparseLM) -> None:
    before = model.tok_encode("the kestrel is moored in")
    likely = greedy(model, before, 4)
    unlikely = [*likely[:-1], (likely[-1] + 1) % 300]
    results = model._loglikelihood_tokens(
        [(None, before, likely), (None, before, unlikely), (None, before, likely[:1])], disable_tqdm=True
    )
    assert [flag for _, flag in results] == [True, False, True]
    assert results[2][0] > results[0][0] > results[1][0]


def test_long_contexts_lose_their_front_and_long_continuations_too(folder: Path) -> None:
    model = MemSparseLM(pretrained=str(folder), dtype="float32", device="cpu", max_length=8)
    tokens = random.Random(1).choices(range(3, 300), k=40)
    rows = [(tokens[:30], tokens[30:34]), (tokens[:3], tokens[3:11]), (tokens[:2], tokens[2:30])]
    results = model._loglikelihood_tokens([(None, *row) for row in rows], disable_tqdm=True)
    # The model reads at most 8 tokens: 5 before the first, 4 scored; 1 before, 8 scored; the last 8 of 28.
    wanted = [
        by_hand(model, tokens[25:30], tokens[30:34]),
        by_hand(model, tokens[2:3], tokens[3:11]),
        by_hand(model, tokens[21:22], tokens[22:30]),
    ]
    assert [each[0] for each in results] == pytest.approx([each[0] for each in wanted], abs=1e-3)


def test_the_harness_default_device_is_no_choice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = MemSparseLM(pretrained=str(folder), device="cuda:0")
    assert model.device.type != "cuda"


def test_an_empty_continuation_costs_nothing(model: MemSparseLM) -> None:
    assert model._loglikelihood_tokens([(None, [5, 6], [])], disable_tqdm=True) == [(0.0, True)]
    assert model.loglikelihood([], disable_tqdm=True) == []


@pytest.mark.parametrize("max_length", [4, 5, 64])
def test_rolling_counts_every_token_once(folder: Path, max_length: int) -> None:
    model = MemSparseLM(
        pretrained=str(folder), dtype="float32", device="cpu", max_length=max_length, batch_size=2
    )
    texts = ["the kestrel is moored in the harbour of sarno.", "a", "", "please return all documents"]
    results = model.loglikelihood_rolling(requests(*texts), disable_tqdm=True)
    for text, result in zip(texts, results, strict=True):
        tokens = model.tok_encode(text)
        total = 0.0
        for start in range(0, len(tokens), max_length):
            # Every further window is as long as the first, reaching back over tokens scored before.
            end = min(start + max_length, len(tokens))
            first = max(0, end - max_length)
            before = [model.prefix_token_id] if first == 0 else [tokens[first - 1]]
            total += by_hand(model, before + tokens[first:start], tokens[start:end])[0]
        assert result == pytest.approx(total, abs=2e-3)


def test_generation_is_greedy_whatever_lies_beside_it(model: MemSparseLM) -> None:
    prompts = ["the kestrel", "please answer the question based on the above historical document", "a", ""]
    asked = [(prompt, {"until": [], "max_gen_toks": 6}) for prompt in prompts]
    texts = model.generate_until(requests(*asked), disable_tqdm=True)
    for prompt, text in zip(prompts, texts, strict=True):
        tokens = greedy(model, model.tok_encode(prompt) or [model.prefix_token_id], 6)
        ends = [at for at, token in enumerate(tokens) if token == model.eot_token_id]
        assert text == model.tok_decode(tokens[: ends[0] if ends else 6])


def test_generation_stops_at_the_first_of_its_stop_strings(model: MemSparseLM) -> None:
    settings = {"until": [], "max_gen_toks": 12}
    [whole] = model.generate_until(requests(("the kestrel", settings)), disable_tqdm=True)
    assert len(whole) > 6
    late, early = whole[5:7], whole[2:4]
    cut = min(whole.find(early), whole.find(late))
    asked = [("the kestrel", {**settings, "until": until}) for until in ([late, early], "\x00never", early)]
    texts = model.generate_until(requests(*asked), disable_tqdm=True)
    assert texts == [whole[:cut], whole, whole[: whole.find(early)]]


def test_generation_ends_with_the_text(model: MemSparseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"until": [], "max_gen_toks": 8}
    tokens = greedy(model, model.tok_encode("the kestrel"), 8)
    end = tokens[3]
    monkeypatch.setattr(model, "_ends", lambda: [end])
    [text] = model.generate_until(requests(("the kestrel", settings)), disable_tqdm=True)
    assert text == model.tok_decode(tokens[: tokens.index(end)])


def test_a_long_prompt_keeps_its_end_and_room_for_the_answer(folder: Path) -> None:
    model = MemSparseLM(pretrained=str(folder), dtype="float32", device="cpu", max_length=12)
    prompt = "please answer the question based on the above historical document information"
    tokens = model.tok_encode(prompt)
    assert len(tokens) > 12
    for limit, kept in ((4, 8), (11, 1), (500, 1)):
        settings = {"until": [], "max_gen_toks": limit}
        [text] = model.generate_until(requests((prompt, settings)), disable_tqdm=True)
        wanted = greedy(model, tokens[-kept:], min(limit, 11))
        assert text == model.tok_decode(wanted)


def test_answers_come_in_the_order_asked(model: MemSparseLM) -> None:
    asked = [(f"the {'kestrel ' * n}", {"until": ["\n"], "max_gen_toks": 2 + n % 3}) for n in range(7)]
    together = model.generate_until(requests(*asked), disable_tqdm=True)
    single = [model.generate_until(requests(each), disable_tqdm=True)[0] for each in asked]
    assert together == single


def test_what_it_cannot_do_is_one_line(folder: Path, model: MemSparseLM) -> None:
    with pytest.raises(ConfigError, match="do_sample=False"):
        model.generate_until(requests(("a", {"do_sample": True, "temperature": 1.0})), disable_tqdm=True)
    with pytest.raises(ConfigError, match="max_length is 1"):
        MemSparseLM(pretrained=str(folder), max_length=1)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        MemSparseLM(pretrained=str(folder), batch_size=0)
    with pytest.raises(ConfigError, match="has no chat template"):
        model.apply_chat_template([{"role": "user", "content": "x"}])


def test_results_reach_the_harness_cache(model: MemSparseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str, Any]] = []
    hook = SimpleNamespace(add_partial=lambda kind, arguments, result: kept.append((kind, arguments)))
    monkeypatch.setattr(model, "cache_hook", hook)
    model.loglikelihood(requests(("a", "b")), disable_tqdm=True)
    model.loglikelihood_rolling(requests("a"), disable_tqdm=True)
    model.generate_until(requests(("a", {"until": [], "max_gen_toks": 1})), disable_tqdm=True)
    assert [kind for kind, _ in kept] == ["loglikelihood", "loglikelihood_rolling", "generate_until"]
    assert kept[0][1] == ("a", "b")


def test_the_package_does_not_need_the_harness() -> None:
    code = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "import memsparse.evaluation, memsparse.evaluation.benchmarks\n"
        "from memsparse.errors import InputError\n"
        "try:\n    import memsparse.evaluation.lm_harness\n"
        "except InputError as error:\n    assert 'memsparse[lm-eval]' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_command_of_the_harness_is_reached() -> None:
    command = [sys.executable, "-m", lm_harness.__name__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "Language Model Evaluation Harness" in done.stdout
