r"""Losses of all scores of two tables, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

#: Maps the first user of a chunk and the chunk's scores, which it may
#: overwrite, to the chunk's loss and its gradient in the scores.
ChunkRule = Callable[[int, Tensor], tuple[Tensor, Tensor]]


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, rule: ChunkRule,
                step: int) -> Tensor:
        loss = users.new_zeros(())
        grad_users, grad_items = torch.empty_like(users), torch.zeros_like(
            items)
        for start in range(0, users.size(0), step):
            part = slice(start, start + step)
            value, gradient = rule(start, users[part] @ items.t())
            loss += value
            grad_users[part] = gradient @ items
            grad_items.addmm_(gradient.t(), users[part])
        ctx.save_for_backward(grad_users, grad_items)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Optional[Tensor], ...]:
        grad_users, grad_items = ctx.saved_tensors
        return grad_users * grads[0], grad_items * grads[0], None, None


def chunked_loss(users: Tensor, items: Tensor, rule: ChunkRule,
                 chunk_scores: int) -> Tensor:
    r"""A loss that is a sum over users of a function of their scores
    :math:`X_u X_i^{\top}`. Users are taken in chunks and the gradients formed
    on the way, so that no matrix of all users by all items ever exists.

    Args:
        users (Tensor): User rows of shape :math:`(B, d)`.
        items (Tensor): Item rows of shape :math:`(I, d)`.
        rule (callable): Maps the first user of a chunk and its scores
            :math:`(c, I)` to the chunk's loss and its gradient in the scores.
        chunk_scores (int): Scores that are held at a time.

    Example:
        >>> x = torch.eye(2, requires_grad=True)
        >>> half_squares = lambda start, s: (s.square().sum() / 2, s)
        >>> loss = chunked_loss(x, torch.eye(2), half_squares, 2)
        >>> loss.backward()
        >>> float(loss.detach()), x.grad.tolist()
        (1.0, [[1.0, 0.0], [0.0, 1.0]])
    """
    step = max(1, chunk_scores // max(items.size(0), 1))
    loss: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        users, items, rule, step)
    return loss
