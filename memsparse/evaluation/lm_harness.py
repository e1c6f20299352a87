"""The model in lm-evaluation-harness: what its backbone keeps, measured without memory.

    python -m memsparse.evaluation.lm_harness run --model memsparse --model_args pretrained=FOLDER --tasks ...

is the `lm_eval` command with the model "memsparse" known to it; the harness has no hook by which a package
could register one with the command itself. In Python: `import memsparse.evaluation.lm_harness`, then
`lm_eval.simple_evaluate(model="memsparse", model_args="pretrained=FOLDER", tasks=[...])`.

Rows of a batch are padded on the left: the positions of a row then end at the same place, and what is padded
is masked. Texts are encoded without special tokens, and the model's end-of-text token stands before a text
that has nothing before it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from memsparse.engine.loading import LoadedModel, load_model
from memsparse.errors import ConfigError, InputError

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows
except ImportError as error:
    raise InputError(
        f"lm-evaluation-harness is not there ({error}); pip install 'memsparse[lm-eval]'"
    ) from error

NAME = "memsparse"
MAX_NEW_TOKENS = 256
"""Tokens a task may generate where it names no number."""

Scored = tuple[list[int], list[int]]
"""Tokens before, and the tokens that are scored."""


@register_model(NAME)
class MemSparseLM(TemplateLM):  # type: ignore[misc]
    """A `MemSparseForCausalLM` as the harness asks for it.

    Tokens beyond `max_length` are cut from the front of the context; a continuation longer than that is
    scored on its last `max_length` tokens.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
    ) -> None:
        """Load the model.

        Args:
            pretrained: model folder or hub repository. None: the built-in one.
            device: the harness says "cuda" where nobody chose; without CUDA that means none was chosen.
            max_length: tokens of one row. None: the positions the model was trained on.
            batch_size: rows run together; the harness's "auto" means 8.
            max_batch_size: an upper bound for `batch_size`, which the harness passes along.

        Raises: ModelError or ConfigError as `load_model` does; ConfigError for a number out of range.
        """
        super().__init__()
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None
        self.loaded: LoadedModel = load_model(pretrained, device=device, dtype=dtype)
        self.tokenizer = self.loaded.tokenizer
        self.max_length = int(max_length or self.loaded.config.max_position_embeddings)
        if self.max_length < 2:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 2")
        wanted = 8 if str(batch_size).startswith("auto") else int(batch_size)
        if wanted < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size = min(wanted, max_batch_size or wanted)
        self._device = self.loaded.device

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return self._ends()[0]

    @property
    def prefix_token_id(self) -> int:
        """Token before a text that has nothing before it."""
        own = self.tokenizer.bos_token_id
        return self.eot_token_id if own is None else int(own)

    @property
    def max_gen_toks(self) -> int:
        """Tokens generated where a task names no number."""
        return MAX_NEW_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """What tells the tokenizer from others, in the harness's caches."""
        return self.loaded.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text, without special ones unless they are asked for."""
        encoded: list[int] = self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))
        return encoded

    def tok_decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as the prompt the tokenizer's template makes of it.

        Raises: ConfigError if the tokenizer has no template.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(f"{self.loaded.name} has no chat template; run without --apply_chat_template")
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of `max_length` tokens (nats)."""
        windows: list[Scored] = []
        owners: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            for before, scored in get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            ):
                windows.append((before[: len(before) - len(scored) + 1], scored))
                owners.append(number)
        totals = [0.0] * len(requests)
        scores = self._score(windows, "rolling", disable_tqdm)
        for number, (logprob, _) in zip(owners, scores, strict=True):
            totals[number] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        scores = self._score([(before, scored) for _, before, scored in requests], "scoring", disable_tqdm)
        for (pair, _, _), score in zip(requests, scores, strict=True):
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, score)
        return scores

    @torch.inference_mode()
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each context, up to the first stop string or end token.

        Only greedy decoding: a task that asks for sampling is a ConfigError.
        """
        prompts = [(self._prompt(request.args[0]), self._settings(request.args[1])) for request in requests]
        # Rows of a batch share their limit and stop strings, and are about as long as each other.
        order = sorted(range(len(prompts)), key=lambda i: (str(prompts[i][1]), -len(prompts[i][0])))
        texts = [""] * len(prompts)
        with tqdm(total=len(order), desc="generating", disable=disable_tqdm) as bar:
            for batch in _batches(order, self.batch_size, lambda i: str(prompts[i][1])):
                limit, stops = prompts[batch[0]][1]
                rows = [prompts[i][0][-max(1, self.max_length - limit) :] for i in batch]
                for i, text in zip(batch, self._write(rows, limit, stops), strict=True):
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
                bar.update(len(batch))
        return texts

    def _prompt(self, context: str) -> list[int]:
        return self.tok_encode(context) or [self.prefix_token_id]

    def _settings(self, asked: dict[str, Any]) -> tuple[int, list[str]]:
        """Tokens to write, and what ends the text."""
        settings = normalize_gen_kwargs(asked, self.max_gen_toks)
        if settings["do_sample"]:
            raise ConfigError("the task samples; memsparse decodes greedily here, so set do_sample=False")
        return min(settings["max_gen_toks"], self.max_length - 1), [
            stop for stop in settings["until"] if stop
        ]

    def _write(self, rows: list[list[int]], limit: int, stops: list[str]) -> list[str]:
        """Decode greedily until every row has ended; return texts, cut before their stop strings."""
        ids, mask = self._padded(rows)
        written: list[list[int]] = [[] for _ in rows]
        texts = [""] * len(rows)
        open_ = set(range(len(rows)))
        past: Any = None
        special = dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        ends = {*self._ends(), *(special[stop] for stop in stops if stop in special)}
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(limit):
            outputs = self.loaded.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past = outputs.past_key_values
            ids = outputs.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1
            for row in sorted(open_):
                token = int(ids[row, 0])
                if token in ends:
                    open_.discard(row)
                    continue
                written[row].append(token)
                texts[row] = self.tok_decode(written[row])
                if (at := _first(texts[row], stops)) is not None:
                    texts[row] = texts[row][:at]
                    open_.discard(row)
            if not open_:
                break
        return texts

    def _ends(self) -> list[int]:
        ends = self.loaded.config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return [int(end) for end in ends] if isinstance(ends, list | tuple) else [int(ends)]

    @torch.inference_mode()
    def _score(self, pairs: Sequence[Scored], title: str, quiet: bool) -> list[tuple[float, bool]]:
        """Log-likelihood (nats) of each second part after the first, and whether greed would write it."""
        results: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        with tqdm(total=len(order), desc=title, disable=quiet) as bar:
            for batch in _batches(order, self.batch_size):
                cut = [self._cut(*pairs[i]) for i in batch]
                rows = [before + scored[:-1] for before, scored in cut]
                logprobs = self._logprobs(rows, keep=max(1, *(len(scored) for _, scored in cut)))
                for row, i in enumerate(batch):
                    scored = torch.tensor(cut[row][1], device=logprobs.device)
                    if len(scored):
                        ours = logprobs[row, -len(scored) :]
                        total = ours.gather(1, scored[:, None]).sum()
                        results[i] = float(total), bool((ours.argmax(1) == scored).all())
                bar.update(len(batch))
        return results

    def _cut(self, before: list[int], scored: list[int]) -> Scored:
        """Keep the last tokens that fit, of which the model reads all but the last."""
        whole = ((before or [self.prefix_token_id]) + scored)[-self.max_length - 1 :]
        kept = max(1, len(whole) - len(scored))
        return whole[:kept], whole[kept:]

    def _logprobs(self, rows: list[list[int]], keep: int) -> Tensor:
        """(B, keep, V) float32 log-probabilities of what follows the last tokens; rows end together."""
        ids, mask = self._padded(rows)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        outputs = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=keep,
        )
        return torch.log_softmax(outputs.logits.float(), dim=-1)

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, T) tokens and mask, padded on the left."""
        longest = max(map(len, rows))
        padding = [longest - len(row) for row in rows]
        ids = [[0] * pad + row for pad, row in zip(padding, rows, strict=True)]
        mask = [[0] * pad + [1] * len(row) for pad, row in zip(padding, rows, strict=True)]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)


def _batches(order: list[int], size: int, group: Callable[[int], str] = lambda _: "") -> Iterator[list[int]]:
    """Yield runs of at most `size` neighbours that belong to one group."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == size or group(i) != group(batch[0])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def main() -> None:
    """Run the command of lm-evaluation-harness, which knows the model by then."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
