"""Training objectives over groups: float32 `scores` (G, P) of P passages for each of G queries.

`labels` (G, P) are grades, 0 for not relevant; `teacher` (G, P) are logits of another scorer; `weights` (G,) scale each
group's share of the mean. All functions return a scalar tensor and are differentiable in `scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def listwise_softmax(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy between normalised labels and the softmax of the scores, the mean over groups.

    ListNet's top-one loss (Cao et al., ICML 2007): -sum_i y_i / sum(y) * log softmax(s)_i. A group without a positive
    counts 0.
    """
    target = labels / labels.sum(dim=1, keepdim=True).clamp(min=1e-9)
    return -(target * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()


def listwise_kl(scores: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(softmax(teacher) || softmax(scores)), the mean over groups (Hinton et al., 2015, at temperature 1)."""
    log_teacher = functional.log_softmax(teacher, dim=1)
    divergence = (log_teacher.exp() * (log_teacher - functional.log_softmax(scores, dim=1))).sum(dim=1)
    return _weighted_mean(divergence, weights)


def margin_mse(scores: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of all score differences within a group, against the teacher's differences.

    Margin-MSE (Hofstaetter et al., 2020) over all pairs: mean_ij ((s_i - s_j) - (t_i - t_j))^2 / 2, which equals the
    variance of (s - t) within the group.
    """
    return _weighted_mean((scores - teacher).var(dim=1, unbiased=False), weights)


def pairwise_margin(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, margin - (s_i - s_j)), the mean over all groups' pairs with labels_i > labels_j; 0 without such a pair."""
    better, gap = _pairs(scores, labels)
    return functional.relu(margin - gap)[better].sum() / better.sum().clamp(min=1)


def pairwise_logistic(scores: Tensor, labels: Tensor) -> Tensor:
    """log(1 + exp(-(s_i - s_j))), the mean over pairs with labels_i > labels_j (RankNet, Burges et al., ICML 2005)."""
    better, gap = _pairs(scores, labels)
    return functional.softplus(-gap)[better].sum() / better.sum().clamp(min=1)


def pointwise_bce(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score) against label > 0; positives and negatives weigh the same in total."""
    relevant = (labels > 0).to(scores.dtype)
    losses = functional.binary_cross_entropy_with_logits(scores, relevant, reduction="none")
    positive = (losses * relevant).sum() / relevant.sum().clamp(min=1)
    negative = (losses * (1 - relevant)).sum() / (1 - relevant).sum().clamp(min=1)
    return (positive + negative) / 2


def pointwise_mse(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the scores against graded labels."""
    return functional.mse_loss(scores, labels.to(scores.dtype))


def correct_teacher(teacher: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The teacher with every labelled positive lifted to at least the best unlabelled score plus `margin`.

    A label is worth more than the teacher's opinion, so distillation never argues with a judgment. Shape as `teacher`.
    """
    relevant = labels > 0
    best_negative = teacher.masked_fill(relevant, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(relevant, torch.maximum(teacher, best_negative + margin), teacher)


def _pairs(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    better = labels[:, :, None] > labels[:, None, :]  # (G, P, P)
    return better, scores[:, :, None] - scores[:, None, :]


def _weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights).mean()
