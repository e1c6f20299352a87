"""What is kept of a step that failed: its batches, readable."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from memsparse.errors import EngineError
from memsparse.text import PromptBuilder
from memsparse.training.checkpoint import write_json
from memsparse.training.data import IGNORED, Step


def failure(
    out: Path, step: int, phase: str, reason: str, batches: Mapping[int, Mapping[str, Any]]
) -> EngineError:
    """Keep the micro-batches of a step that failed, by their indices, and say in one line where."""
    where = [
        out / (f"bad-step-{step}.{micro}.json" if micro else f"bad-step-{step}.json") for micro in batches
    ]
    for path, (micro, batch) in zip(where, batches.items(), strict=True):
        entry = {"step": step, "micro": micro, "phase": phase, "reason": reason, **batch}
        try:
            write_json(path, entry)
        except EngineError as error:
            return EngineError(f"step {step}: {reason}; its batch could not be kept: {error}")
    told = f"its batch is in {', '.join(map(str, where))}: lower the learning rate, or look there"
    return EngineError(f"step {step}: {reason}; {told}")


def tell(task: str, batch: Step | tuple[Tensor, Tensor], prompts: PromptBuilder) -> Mapping[str, Any]:
    """A micro-batch as JSON, as its task sees it."""
    if not isinstance(batch, Step):
        return {"ids": batch[0].tolist(), "labels": batch[1].tolist()}
    if task == "spans":
        return {"ids": batch.spans[0].tolist(), "repeats": batch.spans[1].tolist()}
    return describe(batch, prompts)


def describe(step: Step, prompts: PromptBuilder) -> dict[str, Any]:
    """A step as JSON: text of documents and calls, what each call should have said, and the token ids."""
    lengths = step.document_lengths.tolist()
    documents = [row[:length] for row, length in zip(step.document_ids.tolist(), lengths, strict=True)]
    calls = []
    for batch in step.batches:
        for row, kind in enumerate(batch.kinds):
            ids = batch.ids[row][batch.mask[row]].tolist()
            labels = batch.labels[row][batch.mask[row]].tolist()
            calls.append(
                {
                    "kind": kind,
                    "text": prompts.decode(ids),
                    "target": prompts.decode([label for label in labels if label != IGNORED]),
                    "positives": batch.positives[row].nonzero().flatten().tolist(),
                    "read": batch.read[row].nonzero().flatten().tolist(),
                    "ids": ids,
                    "labels": labels,
                }
            )
    return {"documents": [{"text": prompts.decode(ids), "ids": ids} for ids in documents], "calls": calls}
