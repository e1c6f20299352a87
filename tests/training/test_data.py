import re
from collections import Counter
from random import Random

import pytest
import torch

from memsparse.errors import InputError
from memsparse.training.data import (
    BATCH_ROWS,
    IGNORED,
    NOT_FOUND,
    SPAN_TOKENS,
    CallBatch,
    Step,
    copy_batch,
    draw_numbers,
    induction_batch,
    pad,
)
from memsparse.training.world import Question, World, generate_world
from memsparse.types import Document
from tests.training.builders import prompts, step_builder

EOR = prompts().end_of_retrieve
MARKER = "<|object_ref_end|>"


def world_step(
    seed: int = 0, *, documents: int = 24, questions: int = 60, limit: int = 96, **mix: float
) -> tuple[Step, World]:
    world = generate_world(seed, documents=documents, questions=questions)
    builder = step_builder(max_document_tokens=limit, **mix)
    return builder.build(world.documents, world.questions, Random(seed), calls=questions), world


def rows(step: Step):
    """Every call as (batch, row, kind, prompt text, target text)."""
    for batch in step.batches:
        for row, kind in enumerate(batch.kinds):
            labels = batch.labels[row]
            target = prompts().decode([int(i) for i in labels if i != IGNORED])
            text = prompts().decode(batch.ids[row][batch.mask[row]].tolist())
            yield batch, row, kind, text, target


def chosen(members: torch.Tensor) -> list[int]:
    return members.nonzero().flatten().tolist()


def numbers_of(step: Step) -> list[int]:
    return [int("".join(str(int(d)) for d in digits if d != IGNORED)) for digits in step.digits]


def role_text(batch: CallBatch, row: int) -> str:
    return prompts().decode(batch.ids[row][batch.routes[row]].tolist())


def test_targets_are_the_protocols_own_text():
    kinds = Counter()
    for seed in range(6):
        step, _ = world_step(seed)
        numbers = numbers_of(step)
        for batch, row, kind, text, target in rows(step):
            kinds[kind] += 1
            if kind in ("retrieve", "follow"):
                (positive,) = chosen(batch.positives[row])
                assert target == f"[{numbers[positive]}]{MARKER}"
                assert text.endswith(target)
            else:
                assert not batch.positives[row].any()
                assert target.startswith(EOR + "the answer to the question is: ")
                assert target.endswith("<|im_end|>")
                assert (NOT_FOUND in target) == (kind == "absent")
                assert text.endswith(target.removeprefix(EOR))
    assert set(kinds) == {"retrieve", "follow", "answer", "absent"}
    assert min(kinds.values()) > 10


def test_every_target_follows_the_token_it_is_predicted_from():
    """Labels are the ids themselves where they count: the shift is the loss's."""
    step, _ = world_step()
    for batch in step.batches:
        counted = batch.labels != IGNORED
        assert torch.equal(batch.labels[counted], batch.ids[counted])
        assert counted.any(1).all()
        assert not (counted & ~batch.mask).any()
        assert not counted[:, : step.head + 1].any()


def test_an_answer_is_an_accepted_one_and_stands_in_the_last_document_read():
    step, world = world_step(3, distractors=0.5)
    asked = {question.text.lower(): question for question in world.questions}
    seen = 0
    for batch, row, kind, text, target in rows(step):
        if kind != "answer":
            continue
        seen += 1
        restated = text.split("the user's question is: ")[1].split("\n")[0]
        question = asked[restated.strip()]
        spoken = target.split(" is: ")[1].removesuffix("<|im_end|>")
        assert spoken in [answer.lower() for answer in question.answers]
        read = {world.documents[i].id for i in chosen(batch.read[row])}
        assert set(question.chain) <= read
    assert seen > 5


def test_only_the_question_and_the_documents_read_last_route():
    for seed in range(3):
        step, world = world_step(seed, first=0.2)
        for batch, row, _kind, text, _target in rows(step):
            assert not (batch.routes[row] & (batch.labels[row] != IGNORED)).any()
            assert not batch.routes[row, : step.head].any()
            routed = role_text(batch, row)
            assert "please answer the question" in routed
            assert MARKER not in routed
            passages = re.findall(r"\[\d+\]\. ", routed)
            turns = [part for part in text.split(MARKER) if re.search(r"\[\d+\]\. ", part)]
            expected = re.findall(r"\[\d+\]\. ", turns[-1]) if turns else []
            assert passages == expected
        assert len(world.documents) == len(step.document_lengths)


def test_read_documents_are_those_whose_text_is_in_the_prompt():
    for seed in range(4):
        step, _ = world_step(seed, misses=0.5)
        numbers = numbers_of(step)
        for batch, row, _kind, text, _target in rows(step):
            inside = {int(number) for number in re.findall(r"\[(\d+)\]\. ", text)}
            assert {numbers[i] for i in chosen(batch.read[row])} == inside
            assert not (batch.read[row] & batch.positives[row]).any()


def question_of(world: World, text: str) -> Question:
    found = [q for q in world.questions if q.text.lower() in text]
    return max(found, key=lambda question: len(question.text))


@pytest.mark.parametrize(("misses", "distractors"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_misses_and_distractors_come_as_often_as_asked(misses, distractors):
    wrong = Counter()
    for seed in range(3):
        step, world = world_step(seed, misses=misses, distractors=distractors, first=0.3)
        for batch, row, kind, text, _target in rows(step):
            if kind == "absent":
                continue
            chain = set(question_of(world, text).chain)
            read = [world.documents[i].id for i in chosen(batch.read[row])]
            strangers = [id_ for id_ in read if id_ not in chain]
            wrong[kind, bool(strangers)] += 1
    if misses == 1.0:
        assert wrong["retrieve", False] == wrong["retrieve", True] == 0  # every ask follows a miss
        assert wrong["follow", True] > 20
        assert wrong["follow", False] == 0
        assert wrong["answer", True] == 0
    elif distractors == 1.0:
        assert wrong["answer", True] > 10
        assert wrong["answer", False] == 0
        assert wrong["retrieve", True] == 0
    else:
        assert not wrong["answer", True] + wrong["follow", True] + wrong["retrieve", True]


@pytest.mark.parametrize(("first", "kinds"), [(1.0, {"retrieve"}), (0.0, {"follow", "answer"})])
def test_the_share_of_first_calls_is_what_is_asked(first, kinds):
    world = generate_world(0, documents=24, questions=60, mix={"two_hop": 1.0})
    step = step_builder(first=first, misses=0.0).build(world.documents, world.questions, Random(0), calls=60)
    assert {kind for batch in step.batches for kind in batch.kinds} == kinds


def test_absent_questions_end_after_their_subject_was_read():
    world = generate_world(5, documents=24, questions=40, mix={"absent": 1.0})
    step = step_builder().build(world.documents, world.questions, Random(1), calls=40)
    for batch, row, kind, text, _target in rows(step):
        assert kind == "absent"
        question = question_of(world, text)
        read = [world.documents[i] for i in chosen(batch.read[row])]
        assert read
        subjects = [
            document for document in world.documents if document.title and document.title in question.text
        ]
        assert not subjects or any(document in read for document in subjects)


def real_pool(*questions: Question) -> Step:
    texts = ("salt is white", "glass is clear", "coal is black", "milk is white", "wine is red")
    documents = [Document(id=text.split()[0], title=text.split()[0], text=text) for text in texts]
    builder = step_builder(first=0.4, misses=0.0, distractors=0.0)
    return builder.build(documents, questions * 40, Random(3), calls=40 * len(questions))


def test_documents_that_may_be_read_in_any_order_are_all_right_until_they_are_read():
    question = Question(
        text="Which is black, salt or coal?",
        answers=("coal",),
        chain=("salt", "coal"),
        steps=(),
        kind="two_hop",
        unordered=True,
    )
    seen = Counter()
    for batch, row, kind, _, target in rows(step := real_pool(question)):
        positives, read = chosen(batch.positives[row]), chosen(batch.read[row])
        seen[kind, len(positives), tuple(read)] += 1
        numbers = numbers_of(step)
        assert not set(positives) & set(read)
        if positives:
            assert sorted([*positives, *read]) == [0, 2]
            assert target in [f"[{numbers[index]}]{MARKER}" for index in positives]
        else:
            assert "coal" in target
    assert set(seen) == {
        ("retrieve", 2, ()),
        ("follow", 1, (0,)),
        ("follow", 1, (2,)),
        ("answer", 0, (0, 2)),
    }


def test_a_lookup_asks_for_its_documents_and_never_answers():
    alone = Question(text="What is clear?", answers=(), chain=("glass",), steps=(), kind="lookup")
    assert {kind for _, _, kind, _, _ in rows(real_pool(alone))} == {"retrieve"}
    both = Question(
        text="Are salt and milk white?",
        answers=(),
        chain=("salt", "milk"),
        steps=(),
        kind="lookup",
        unordered=True,
    )
    assert {kind for _, _, kind, _, _ in rows(real_pool(both))} == {"retrieve", "follow"}


def test_an_absent_question_reads_the_document_it_seems_to_be_about():
    question = Question(text="Who made it?", answers=(), chain=(), steps=(), kind="absent", about="coal")
    for batch, row, kind, text, _ in rows(real_pool(question)):
        assert kind == "absent"
        assert 2 in chosen(batch.read[row])
        assert "coal is black" in text


def test_without_interleave_all_documents_are_asked_for_at_once_and_read_at_once():
    step, world = world_step(3, interleave=False, misses=0.0, distractors=0.0, first=0.5)
    hops = {question.text.lower(): len(question.chain) for question in world.questions if question.answers}
    seen = Counter()
    for batch, row, kind, text, target in rows(step):
        hop = next((n for question, n in hops.items() if question in text), 0)
        if not hop:
            continue
        assert kind != "follow"
        if kind == "retrieve":
            assert len(chosen(batch.positives[row])) == target.count("[") == hop
        else:
            assert len(chosen(batch.read[row])) == hop
        seen[kind, hop] += 1
    assert min(seen["retrieve", 2], seen["answer", 2]) > 0


def test_without_original_text_a_call_holds_numbers_alone():
    step, _ = world_step(3, original_text=False)
    numbers, texts = numbers_of(step), 0
    for batch, row, kind, text, _ in rows(step):
        for index in chosen(batch.read[row]):
            assert f"[{numbers[index]}]" in text
            assert f"[{numbers[index]}]." not in text
            texts += kind == "answer"
    assert texts > 0


def test_global_positions_lay_documents_end_to_end_before_the_calls():
    own, _ = world_step(3)
    step, _ = world_step(3, global_positions=True)
    lengths = step.document_lengths
    assert not own.starts.any()
    assert torch.equal(step.starts[1:], step.starts[:-1] + lengths[:-1])
    for batch, other in zip(step.batches, own.batches, strict=True):
        assert torch.equal(batch.positions - other.positions, torch.full_like(batch.positions, lengths.sum()))


def test_tiny_pools_give_no_turn_that_reads_nothing():
    documents = [Document(id="a", title="Velm", text="Velm is a river.")]
    question = Question(
        text="What is Velm?", answers=("a river",), chain=("a",), steps=("a river",), kind="one_hop"
    )
    for seed in range(20):
        step = step_builder(misses=1.0).build(documents, [question], Random(seed), calls=1)
        for batch, _row, kind, text, _target in rows(step):
            assert kind in ("retrieve", "answer")
            assert text.count(MARKER) == (1 if kind == "retrieve" else 3)
            assert batch.positives.shape == (1, 1)


def test_documents_carry_their_number_at_both_ends_also_when_shortened():
    for limit in (32, 40, 96):
        step, _ = world_step(2, questions=20, limit=limit, first=1.0, misses=0.0)
        assert int(step.document_lengths.max()) <= limit
        shortened = 0
        for ids, length, number in zip(
            step.document_ids, step.document_lengths, numbers_of(step), strict=True
        ):
            text = prompts().decode(ids[:length].tolist())
            assert text.startswith(f"<|im_start|>[{number}]. ")
            assert text.endswith(f"[{number}]<|im_end|>")
            shortened += int(length) == limit
        assert shortened > 5 or limit == 96


def test_calls_share_batches_with_neighbours_in_length_and_positions_start_at_the_offset():
    step, _ = world_step(4)
    lengths = [int(n) for batch in step.batches for n in batch.mask.sum(1)]
    assert lengths == sorted(lengths)
    assert all(len(batch.kinds) == BATCH_ROWS for batch in step.batches[:-1])
    assert step.tokens == sum(lengths) + int(step.document_lengths.sum())
    for batch in step.batches:
        assert batch.ids.shape[1] % 32 == 0
        assert batch.ids[0, : step.head].tolist() == prompts().head()
        assert batch.positions[0, : step.head + 2].tolist() == [*range(step.head), 6, 7]


def test_equal_seeds_build_equal_steps_and_others_draw_other_numbers():
    first, second = world_step(1)[0], world_step(1)[0]
    assert torch.equal(first.document_ids, second.document_ids)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first.batches, second.batches, strict=True))
    world = generate_world(1, documents=24, questions=60)
    other = step_builder().build(world.documents, world.questions, Random(2), calls=60)
    assert numbers_of(first) != numbers_of(other)


def test_a_step_without_any_call_that_fits_is_refused():
    world = generate_world(1, documents=4, questions=4)
    with pytest.raises(InputError, match="raise max_document_tokens"):
        step_builder(max_document_tokens=5).build(world.documents, world.questions, Random(0), calls=4)
    with pytest.raises(InputError, match="no question"):
        step_builder().build(world.documents, [], Random(0), calls=4)


def test_numbers_never_repeat_and_cover_all_lengths_about_equally():
    drawn = Counter()
    for seed in range(60):
        numbers = draw_numbers(Random(seed), 40, 5)
        assert len(set(numbers)) == 40
        drawn.update(len(str(number)) for number in numbers)
    assert set(drawn) == {1, 2, 3, 4, 5}
    assert min(drawn[n] for n in (2, 3, 4, 5)) > 0.8 * max(drawn.values())
    assert drawn[1] > 200
    assert numbers != sorted(numbers)


def test_all_numbers_may_be_taken_but_not_more():
    assert sorted(draw_numbers(Random(0), 100, 2)) == list(range(100))
    assert draw_numbers(Random(0), 0, 1) == []
    with pytest.raises(InputError, match="11 documents"):
        draw_numbers(Random(0), 11, 1)


def test_padding_is_on_the_right_to_a_multiple():
    values, mask = pad([[1, 2, 3], [], [4]], 2, value=9)
    assert values.tolist() == [[1, 2, 3, 9], [9] * 4, [4, 9, 9, 9]]
    assert mask.sum(1).tolist() == [3, 0, 1]
    assert pad([], 8)[0].shape == (0, 0)


def test_spans_are_texts_followed_by_pieces_of_themselves():
    world = generate_world(1, documents=8, questions=4)
    builder = step_builder()
    ids, repeats = builder.build(world.documents, world.questions, Random(0), calls=4, spans=30).spans
    assert ids.shape == repeats.shape == (30, SPAN_TOKENS)
    assert 0.3 < float(repeats.float().mean()) < 0.8
    for row, repeated in zip(ids.tolist(), repeats.tolist(), strict=True):
        pairs = [tuple(row[i : i + 2]) for i in range(SPAN_TOKENS - 1)]
        assert not any(repeated[:20])
        assert all(pairs[i - 1] in pairs[: i - 1] for i in range(1, SPAN_TOKENS) if repeated[i])
    none, _ = builder.build(world.documents, world.questions, Random(0), calls=4).spans
    assert none.shape == (0, SPAN_TOKENS)
    alone = builder.build(world.documents[:1], _about(world.documents[0]), Random(0), calls=1, spans=2)
    assert alone.spans[0].shape == (2, SPAN_TOKENS)
    assert alone.tokens == int(alone.document_lengths.sum() + alone.batches[0].mask.sum()) + 2 * SPAN_TOKENS


def _about(document: Document) -> list[Question]:
    answer = document.text.split()[0]
    return [Question(text="Who?", answers=(answer,), chain=(document.id,), steps=(answer,), kind="one_hop")]


def test_spans_change_nothing_else_of_a_step():
    world = generate_world(1, documents=8, questions=4)
    with_spans, without = (
        step_builder().build(world.documents, world.questions, Random(0), calls=4, spans=spans)
        for spans in (3, 0)
    )
    assert torch.equal(with_spans.document_ids, without.document_ids)
    assert torch.equal(with_spans.batches[0].ids, without.batches[0].ids)


def test_a_copy_batch_repeats_every_row_at_one_distance():
    ids, labels = copy_batch(Random(0), (5, 200), 6, span=16)
    assert ids.shape == labels.shape == (6, 32)
    assert torch.equal(ids[:, :16], ids[:, 16:])
    assert torch.equal(labels[:, 16:], ids[:, 16:])
    assert (labels[:, :16] == IGNORED).all()
    assert int(ids.min()) >= 5
    assert all(len(set(row[:16].tolist())) == 16 for row in ids)


def test_an_induction_batch_counts_only_what_followed_the_same_token_before():
    ids, labels = induction_batch(Random(0), (5, 500), 40)
    assert ids.shape == labels.shape == (40, 128)
    distances = set()
    for row, targets in zip(ids.tolist(), labels.tolist(), strict=True):
        assert any(target != IGNORED for target in targets)
        for place, target in enumerate(targets):
            if target == IGNORED:
                continue
            assert target == row[place]
            before = [j for j in range(place - 1) if row[j] == row[place - 1]]
            assert before
            assert row[before[-1] + 1] == target or target in [row[j + 1] for j in before]
            distances.add(place - 1 - before[-1])
    assert len(distances) > 30
