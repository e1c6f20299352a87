"""The small checkpoint's tokenizer: lower-casing byte-level BPE that keeps digits and punctuation single."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memsparse.json_lines import read_rows
from memsparse.text import Template
from memsparse.training.config import ReadingSource
from memsparse.training.world import generate_world

PADDING = "<|endoftext|>"
_PIECES = r" ?\p{L}[\p{L}\p{M}]*|\d|[^\s\p{L}\d]|\s"
"""Words keep one leading space; digits, punctuation and whitespace stand alone: `[12]` is four tokens."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a vocabulary from texts.

    A line's first letter is given a leading space, so that a name has the same tokens wherever it stands.
    """
    template = Template()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\n(?=\p{L})"), "\n ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        PADDING,
        "<|im_start|>",
        template.end_of_turn,
        template.retrieve_marker,
        template.end_of_retrieve,
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        eos_token=template.end_of_turn,
        clean_up_tokenization_spaces=False,
    )


def vocabulary_texts(
    reading: Sequence[ReadingSource] | None, *, worlds: int = 120, passages: int = 6000
) -> Iterator[str]:
    """Texts a vocabulary is learnt from: invented worlds, and real passages with their questions.

    Args:
        reading: sources of real text; those with a corpus each have their share of the passages.
        worlds: invented worlds of 64 documents and 64 questions.
        passages: rows of all corpora at most; three times as many questions.
    """
    for seed in range(worlds):
        world = generate_world(10_000_000 + seed, documents=64, questions=64)
        yield from (f"{document.title}\n{document.text}" for document in world.documents)
        yield from (question.text for question in world.questions)
    sources = [source for source in reading or () if source.corpus is not None]
    for source in sources:
        most = -(-passages // len(sources))
        files: list[tuple[str, int, tuple[str, ...]]] = [(str(source.corpus), most, ("title", "text"))]
        if source.queries is not None:
            files.append((source.queries, 3 * most, ("question",)))
        for path, limit, names in files:
            for _, row in islice(read_rows(Path(path)), limit):
                yield "\n".join(str(row.get(name, "")) for name in names)
