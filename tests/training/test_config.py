from pathlib import Path

import pytest

import memsparse.training
from memsparse.errors import ConfigError
from memsparse.training.config import Phase, ReadingSource, TrainConfig
from memsparse.training.data import NOT_FOUND
from tests.training.builders import MODEL, calls_phase, recipe

RECIPES = Path(memsparse.training.__file__).parent / "recipes"
PHASE = '[[phases]]\nname = "main"\nsteps = 3\n'


def read(tmp_path: Path, text: str) -> TrainConfig:
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    return TrainConfig.read(tmp_path / "recipe.toml")


def test_the_recipe_of_the_small_checkpoint_can_be_read():
    config = TrainConfig.read(RECIPES / "small.toml")
    assert config.steps > 1000
    assert {phase.task for phase in config.phases} >= {"spans", "calls"}
    assert config.model_config(vocab_size=6144).max_document_tokens == 128


def test_a_recipe_says_everything(tmp_path):
    config = read(
        tmp_path,
        'seed = 7\ndtype = "float32"\nreading = { corpus = "c", queries = "q" }\n'
        "[model]\nhidden_size = 32\n[optimizer]\nmatrix_lr = 1\n"
        f"{PHASE}mix = {{ needle = 1 }}\nweights = {{ aux = 2, lm = 0.5 }}\nreading_share = 1\n"
        f'{PHASE}task = "copy"\n',
    )
    assert (config.seed, config.dtype, config.steps) == (7, "float32", 6)
    assert config.optimizer_config.matrix_lr == 1
    assert (config.phases[0].loss_weights.aux, config.phases[0].loss_weights.numbers) == (2, 0.3)
    assert config.phases[1].task == "copy"


def test_reading_may_name_one_source_or_several(tmp_path):
    one = read(tmp_path, f'reading = {{ corpus = "c", queries = "q" }}\n{PHASE}')
    assert one.reading_sources == (ReadingSource(corpus="c", queries="q", split="train", weight=1),)
    assert one.reading_window == (48, 48)
    several = read(
        tmp_path,
        'reading = [ { corpus = "c", queries = "q", weight = 3 }, { corpus = "d" } ]\n'
        f"reading_words = [20, 80]\n{PHASE}",
    )
    assert [source.weight for source in several.reading_sources] == [3, 1]
    assert several.reading_sources[1].paths == (Path("d"),)
    assert several.reading_window == (20, 80)
    assert read(tmp_path, PHASE).reading_sources == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no steps"),
        ("seed = \n", "give a readable TOML recipe"),
        (f"sead = 1\n{PHASE}", "unknown key sead; known: seed"),
        (f"{PHASE}stepps = 1\n", "phase 'main': unknown key stepps; known: name, steps"),
        ('[[phases]]\nname = "a"\n', "phase 'a': steps is missing"),
        ("[[phases]]\nsteps = 1\n", "phase None: name is missing"),
        ("phases = 3\n", "phases is no list"),
        (f"dtype = 'float16'\n{PHASE}", "dtype is 'float16'; use one of bfloat16, float32"),
        (f"dtype = 'no'\n{PHASE}", "dtype is 'no'"),
        (f"dtype = 1\n{PHASE}", "dtype is 1; it must be text"),
        (f"seed = -1\n{PHASE}", "seed is -1"),
        (f"seed = 1.5\n{PHASE}", "seed is 1.5; it must be a whole number"),
        (f"threads = 0\n{PHASE}", "threads is 0; it must be at least 1"),
        (f"threads = true\n{PHASE}", "threads is True"),
        (f"warmup = -1\n{PHASE}", "warmup is -1"),
        (f"decay = 1.5\n{PHASE}", "decay is 1.5; it must be between 0 and 1"),
        (f"floor = nan\n{PHASE}", "floor is nan"),
        (f"save_every = 0\n{PHASE}", "save_every is 0"),
        (f"eval_every = 0\n{PHASE}", "eval_every is 0"),
        (f"reading = {{ queries = 'a' }}\n{PHASE}", "reading: corpus is missing"),
        (f"reading = {{ corpus = 'a', query = 'b' }}\n{PHASE}", "reading: unknown key query"),
        (f"reading = ['a']\n{PHASE}", "each source is a table"),
        (f"reading = [ {{ corpus = 'a', weight = 0 }} ]\n{PHASE}", "weight above 0"),
        (f"reading = [ {{ corpus = 'a', weight = -1 }} ]\n{PHASE}", "reading: weight is -1"),
        (f"reading_words = [20]\n{PHASE}", "give one number, or fewest and most"),
        (f"reading_words = [20, 10]\n{PHASE}", "reading_words is 10; it must be at least 20"),
        (f"reading_words = 0\n{PHASE}", "reading_words is 0"),
        (f"{PHASE}real_documents = 0.5\n", "real_documents is 0.5, but the recipe names no reading files"),
        (f"reading = {{ corpus = 1, queries = 2 }}\n{PHASE}", "reading: corpus is 1; it must be text"),
        (
            f"[model]\nhiden_size = 3\n{PHASE}",
            "model: unknown key hiden_size; known ones like hiden_size: hidden_size",
        ),
        (f"[model]\nq = 3\n{PHASE}", "unknown key q; see MemSparseConfig"),
        (f"[model]\nhidden_size = 'wide'\n{PHASE}", "model: .*hidden_size"),
        (f"[model]\nchunk_size = 0\n{PHASE}", "chunk_size is 0"),
        (f"[model]\naux_loss_method = 'BCF'\n{PHASE}", "BCF"),
        (f"[model]\nnum_hidden_layers = 4\nmemory_layers = [0, 1]\n{PHASE}", "none in the upper half"),
        (f"[optimizer]\nlr = 3\n{PHASE}", "optimizer: unknown key lr; known: matrices, matrix_lr"),
        (f"[optimizer]\nclip = -3\n{PHASE}", "clip is -3"),
        (f"{PHASE}task = 'nap'\n", "phase 'main': task is 'nap'; use one of copy, induction, calls, spans"),
        ("[[phases]]\nname = 'a'\nsteps = -1\n", "phase 'a': steps is -1"),
        (f"{PHASE}documents = 0\n", "documents is 0"),
        (f"{PHASE}documents = 100001\n", "documents is 100001"),
        (f"{PHASE}calls = 0\n", "calls is 0"),
        (f"{PHASE}gold_only = 1.1\n", "gold_only is 1.1"),
        (f"{PHASE}misses = -0.1\n", "misses is -0.1"),
        (f"{PHASE}first = 2\n", "first is 2"),
        (f"{PHASE}distractors = nan\n", "distractors is nan"),
        (f"{PHASE}reading_share = 2\n", "reading_share is 2"),
        (f"{PHASE}reading_share = 0.5\n", "names no reading files"),
        (f"{PHASE}max_words = 5\n", "max_words is 5; it must be at least 24"),
        (f"{PHASE}max_document_tokens = 31\n", "max_document_tokens is 31"),
        (f"{PHASE}task = 'spans'\n", "spans is 0; it must be at least 1"),
        (f"{PHASE}spans = -1\n", "spans is -1"),
        (f"{PHASE}queue = -1\n", "queue is -1"),
        (f"{PHASE}mix = {{ four_hop = 1 }}\n", "unknown kind four_hop"),
        (f"{PHASE}mix = {{ one_hop = -1 }}\n", "mix.one_hop is -1"),
        (f"{PHASE}mix = {{ one_hop = 0 }}\n", "at least one kind"),
        (f"{PHASE}rate = -1\n", "rate is -1; it must be at least 0"),
        (f"{PHASE}rate_end = inf\n", "rate_end is inf"),
        (f"{PHASE}shape = 'square'\n", "shape is 'square'; use one of linear, cosine"),
        (f"{PHASE}clean = 0.1\n", "clean is 0.1, but the recipe names no reading files"),
        (f"{PHASE}task = 'copy'\nclean = 0.1\n", "clean is 0.1, but the task is 'copy'"),
        ("[[phases]]\nname = 'a/b'\nsteps = 1\nclean = 0.1\n", "clean names a file after the phase"),
        (
            f"reading = {{ corpus = 'c', queries = 'q' }}\n{PHASE}clean = 0.1\n{PHASE}clean = 0.1\n",
            "phases that clean are named main, main; give each its own name",
        ),
        (f"micro_steps = 0\n{PHASE}", "micro_steps is 0"),
        (f"eval_documents = 0\n{PHASE}", "eval_documents is 0"),
        (f"attention = 'flash'\n{PHASE}", "attention is 'flash'; use one of eager, sdpa"),
        (f"sharded = 1\n{PHASE}", "sharded is 1; it must be true or false"),
        (f"sharded = true\n{PHASE}", "sharded is true and matrices 'muon'"),
        (f"validation = [ {{ corpus = 'c' }} ]\n{PHASE}", "validation: c has no queries"),
        (f"validation = [ 'c' ]\n{PHASE}", "validation has 'c'; each source is a table"),
        (f"start = ''\n{PHASE}", "start is empty"),
        (f"start = 'a'\n[model]\nhidden_size = 8\n{PHASE}", "hidden_size cannot be set beside start"),
        (f"lora = {{ rank = 2 }}\n{PHASE}", "lora adapts a model; name its folder: start"),
        (f"reading = {{ corpus = 'a', negatives = -1 }}\n{PHASE}", "negatives is -1"),
        (f"[model]\nmax_position_embeddings = 64\n{PHASE}", "max_document_tokens is 96, but .* 64 tokens"),
        (f"{PHASE}weights = {{ axu = 1 }}\n", "phase 'main': weights: unknown key axu; known: lm, numbers"),
        (f"{PHASE}weights = {{ aux = -1 }}\n", "weights.aux is -1"),
        (f"{PHASE}weights = {{ aux = 'much' }}\n", "a table, each value a number"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line_with_its_path(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path / "recipe.toml") + ": ")
    assert "\n" not in str(raised.value)


def test_a_recipe_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        TrainConfig.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        TrainConfig.read(tmp_path / "binary.toml")


def test_phases_follow_one_another_and_empty_ones_are_passed_over():
    phases = [Phase(name=name, steps=steps) for name, steps in (("a", 2), ("b", 0), ("c", 3))]
    config = recipe(*phases)
    assert [config.phase_at(step).name for step in range(6)] == ["a", "a", "c", "c", "c", "c"]


def test_the_learning_rate_rises_stays_and_falls_to_the_floor():
    config = recipe(calls_phase(100), warmup=10, decay=0.2, floor=0.03)
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    assert recipe(calls_phase(100), decay=0.2, floor=0.2).learning_rate(99) == 0.2
    assert recipe(calls_phase(3), warmup=0, decay=0.0).learning_rate(2) == 1.0


def test_phases_scale_the_learning_rate_from_their_first_step_to_their_last():
    config = recipe(
        calls_phase(3, rate=0.5),
        calls_phase(5, rate=1.0, rate_end=0.06),
        calls_phase(5, rate=1.0, rate_end=0.0, shape="cosine"),
        calls_phase(1, rate=0.2, rate_end=0.1),
        warmup=0,
        decay=0.0,
    )
    rates = [config.learning_rate(step) for step in range(14)]
    assert rates[:3] == [0.5] * 3
    assert rates[3:8] == pytest.approx([1.0, 0.765, 0.53, 0.295, 0.06])
    assert rates[8:13] == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    assert rates[13] == 0.2
    warm = recipe(calls_phase(4, rate=0.5), warmup=4, decay=0.0)
    assert [warm.learning_rate(step) for step in range(4)] == [0.125, 0.25, 0.375, 0.5]


def test_the_phases_that_clean_are_known_by_their_first_steps():
    reading = {"corpus": "c", "queries": "q"}
    phases = [
        calls_phase(2, name="a"),
        calls_phase(0, name="b", clean=0.1),
        calls_phase(3, name="c", clean=0.1),
        calls_phase(1, name="d", clean=0.2),
    ]
    config = recipe(*phases, reading=reading)
    assert {step: phase.name for step, phase in config.cleanings.items()} == {2: "c", 5: "d"}


def test_the_papers_two_phases_can_be_written(tmp_path):
    config = read(
        tmp_path,
        'start = "..."\nwarmup = 0\ndecay = 0.0\n[optimizer]\nmatrices = "adamw"\nmatrix_lr = 1e-4\n'
        'other_lr = 1e-4\n[[phases]]\nname = "align"\nsteps = 10\nweights = { lm = 0.1, aux = 1 }\n'
        '[[phases]]\nname = "main"\nsteps = 90\nrate_end = 0.06\nweights = { lm = 1, aux = 0.1 }\n',
    )
    peak = config.optimizer_config.matrix_lr
    assert [peak * config.learning_rate(step) for step in (0, 9, 10, 99)] == pytest.approx(
        [1e-4] * 3 + [6e-6]
    )
    assert [(phase.loss_weights.lm, phase.loss_weights.aux) for phase in config.phases] == [
        (0.1, 1),
        (1, 0.1),
    ]


def test_the_model_knows_what_it_was_trained_for():
    config = recipe(
        calls_phase(1, max_document_tokens=80),
        calls_phase(1, max_document_tokens=64),
        Phase(name="copy", steps=1, task="copy", max_document_tokens=300),
        model=MODEL | {"id_decoding": "router", "extractive": False},
    )
    made = config.model_config(vocab_size=99)
    assert (made.absent_answer, made.extractive, made.max_document_tokens) == (NOT_FOUND, True, 80)
    assert (made.vocab_size, made.chunk_size, made.id_decoding) == (99, 4, "router")
