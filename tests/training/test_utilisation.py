import pytest

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.flops import pass_flops
from memsparse.training.utilisation import step_flops
from tests.training.builders import MODEL
from tests.training.test_objective import make_step

CONFIG = MemSparseConfig(**MODEL, vocab_size=700)


def test_a_step_is_its_documents_and_its_calls():
    step = make_step()
    whole = step_flops(CONFIG, step)
    documents = pass_flops(CONFIG, step.document_lengths.tolist(), writes=True, chunks_only=True)
    assert whole > documents + sum(
        pass_flops(CONFIG, batch.mask.sum(1).tolist(), targets=int((batch.labels[:, 1:] != -100).sum()))
        for batch in step.batches
    )
    told = [int(length) for length in step.document_lengths[:2]]
    more = pass_flops(CONFIG, told, writes=True, targets=sum(told) - 2)
    less = pass_flops(CONFIG, told, writes=True, chunks_only=True)
    assert step_flops(CONFIG, step, lm_documents=2) == pytest.approx(whole + more - less)
    assert 0.6 * whole < step_flops(CONFIG, step, frozen=True) < whole
