"""Training losses: five for the routers (paper Eq. 5 and its variants), and shifted cross entropy.

R rows (one per request and supervised layer), N documents.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from memsparse.errors import ConfigError, ShapeError

TEMPERATURE_RANGE = (0.001, 0.5)

_ABSENT = -1e30
"""Score of a document that is not there: finite, so that a row without negatives keeps finite gradients."""

AUX_LOSSES = ("INFONCE", "INFONCE_DECOUPLE", "INFONCE_FOCAL", "INFONCE_DECOUPLE_FOCAL", "BCE")


def info_nce(scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor) -> Tensor:
    """Minus the log of every positive's softmax over all documents, averaged over a row's positives.

    Args:
        scores_RN: scores divided by the temperature.
        positives_RN: bool.
        valid_RN: bool; False where a row has no such document.

    Returns: (R,); 0 for a row without positives.
    """
    return _mean_over(positives_RN, -_log_softmax(scores_RN, positives_RN, valid_RN))


def info_nce_decoupled(scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor) -> Tensor:
    """Paper Eq. 5: each positive against the negatives alone, averaged over a row's positives: (R,).

    0 for a row without positives, and for one without negatives.
    """
    return _mean_over(positives_RN, -_log_decoupled(scores_RN, positives_RN, valid_RN))


def info_nce_focal(scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor) -> Tensor:
    """`info_nce` with each term weighted by (1 - p)^2, gradient through the weight included: (R,)."""
    log_p = _log_softmax(scores_RN, positives_RN, valid_RN)
    return _mean_over(positives_RN, -((1 - log_p.exp()) ** 2) * log_p)


def info_nce_decoupled_focal(
    scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor, *, exponent: float | None = 2.0
) -> Tensor:
    """`info_nce_decoupled` with each term weighted by (1 - p)^exponent: (R,).

    Args:
        exponent: None takes a row's number of positives, as the published code does by mistake.
    """
    log_p = _log_decoupled(scores_RN, positives_RN, valid_RN)
    power = positives_RN.sum(1, keepdim=True).to(scores_RN.dtype) if exponent is None else exponent
    return _mean_over(positives_RN, -((1 - log_p.exp()) ** power) * log_p)


def binary_relevance(scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor, bias: Tensor) -> Tensor:
    """BCE: mean over all documents of -log sigmoid(y (s + b)), y = +1 or -1, s without temperature: (R,)."""
    sign = torch.where(positives_RN, 1.0, -1.0)
    terms = softplus(-sign * (scores_RN.masked_fill(~valid_RN, 0) + bias))
    return _mean_over(valid_RN, terms)


def auxiliary_loss(
    method: str,
    scores_RN: Tensor,
    positives_RN: Tensor,
    *,
    temperature: Tensor | float,
    bias: Tensor | None = None,
    focal_exponent: float | None = 2.0,
) -> Tensor:
    """The auxiliary loss of a batch: mean over rows; rows without a positive are left out.

    Args:
        method: one of `AUX_LOSSES`.
        scores_RN: raw document scores; -inf where a row has no such document, or it may not be a negative.
        temperature: divides the scores, clamped to [0.001, 0.5]; unused by BCE.
        bias: the learnt scalar of BCE.

    Returns: a scalar; 0 when no row has a positive.

    Raises: ShapeError if scores and positives differ in shape; ConfigError for an unknown method, or BCE
        without its bias.
    """
    if scores_RN.shape != positives_RN.shape:
        raise ShapeError(
            f"scores are {tuple(scores_RN.shape)}, positives {tuple(positives_RN.shape)}; they must agree"
        )
    valid_RN = scores_RN > float("-inf")
    positives_RN = positives_RN & valid_RN
    rows = positives_RN.any(1)
    scores_RN, positives_RN, valid_RN = scores_RN[rows].float(), positives_RN[rows], valid_RN[rows]
    if method == "BCE":
        if bias is None:
            raise ConfigError("BCE needs its learnt bias; pass bias=")
        losses = binary_relevance(scores_RN, positives_RN, valid_RN, bias)
    else:
        tau = torch.as_tensor(temperature, dtype=torch.float32, device=scores_RN.device).clamp(
            *TEMPERATURE_RANGE
        )
        # Infinite scores would make the temperature's gradient NaN.
        scaled_RN = scores_RN.masked_fill(~valid_RN, 0) / tau
        losses = _contrastive(method, focal_exponent)(scaled_RN, positives_RN, valid_RN)
    return losses.sum() / max(len(losses), 1)


def _contrastive(method: str, exponent: float | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if method == "INFONCE":
        return info_nce
    if method == "INFONCE_DECOUPLE":
        return info_nce_decoupled
    if method == "INFONCE_FOCAL":
        return info_nce_focal
    if method == "INFONCE_DECOUPLE_FOCAL":
        return lambda s, p, v: info_nce_decoupled_focal(s, p, v, exponent=exponent)
    raise ConfigError(f"aux_loss_method is {method!r}; use one of {', '.join(AUX_LOSSES)}")


def shifted_cross_entropy(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross entropy of every next token over all targets that are not -100; 0 when there is none.

    Raises: ShapeError if there is not one label per token.
    """
    if labels_BT.shape != logits_BTV.shape[:2]:
        raise ShapeError(
            f"labels are {tuple(labels_BT.shape)}, logits {tuple(logits_BTV.shape)}; pass one label per token"
        )
    targets = labels_BT[:, 1:].flatten()
    if not bool((targets != -100).any()):
        return logits_BTV[:, :0].sum()
    return cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), targets)


def _log_softmax(scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor) -> Tensor:
    log_p = scores_RN.masked_fill(~valid_RN, _ABSENT).log_softmax(1)
    return log_p.masked_fill(~positives_RN, 0)


def _log_decoupled(scores_RN: Tensor, positives_RN: Tensor, valid_RN: Tensor) -> Tensor:
    negatives = scores_RN.masked_fill(positives_RN | ~valid_RN, _ABSENT).logsumexp(1, keepdim=True)
    own = scores_RN.masked_fill(~positives_RN, 0)
    return (own - torch.logaddexp(own, negatives)).masked_fill(~positives_RN, 0)


def _mean_over(where_RN: Tensor, terms_RN: Tensor) -> Tensor:
    return torch.where(where_RN, terms_RN, 0).sum(1) / where_RN.sum(1).clamp_min(1)
