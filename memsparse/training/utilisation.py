"""Model FLOPs of a training step; over the matrix peak they are the model FLOPs utilisation (MFU).

Counted is what the step is for: real tokens, not padding; nothing twice that gradient checkpointing computes
twice; no optimizer.
"""

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.flops import pass_flops, text_flops
from memsparse.training.data import Step


def step_flops(config: MemSparseConfig, step: Step, *, lm_documents: int = 0, frozen: bool = False) -> float:
    """Model FLOPs of a step: encode its documents, run its calls over them, read its spans.

    Args:
        lm_documents: how many documents, the first ones, go through the output head.
        frozen: the weights have no gradients of their own, as beneath adapters.
    """
    weights = 4 if frozen else 6
    documents = [int(length) for length in step.document_lengths]
    chunks = [-(-length // config.chunk_size) for length in documents]
    read = min(config.top_k_documents, len(documents)) * sum(chunks) / max(1, len(documents))
    told, others = documents[:lm_documents], documents[lm_documents:]
    total = pass_flops(config, told, weights=weights, targets=sum(told) - len(told), writes=True)
    total += pass_flops(config, others, weights=weights, writes=True, chunks_only=True)
    for batch in step.batches:
        total += pass_flops(
            config,
            [int(length) for length in batch.mask.sum(1)],
            weights=weights,
            targets=int((batch.labels[:, 1:] >= 0).sum()),
            memory_chunks=read,
            routing=float(batch.routes.sum()) * sum(chunks),
        )
    return total + text_flops(config, *step.spans[0].shape, weights=weights)
