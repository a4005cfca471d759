"""Muon (Jordan et al. 2024), the optimizer of the matrices between the embeddings."""

from __future__ import annotations

import torch

from train.machine import has_fast_bf16


class Muon:
    """Muon: momentum 0.95, Nesterov, five Newton-Schulz steps, equal shapes at once.

    ``torch.optim.Muon`` orthogonalizes in bfloat16, which a CPU without bf16 units only emulates:
    there it is float32.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.momenta = [torch.zeros_like(p) for p in parameters]
        shapes = dict.fromkeys(p.shape for p in parameters)
        self._groups = [[i for i, p in enumerate(parameters) if p.shape == s] for s in shapes]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update of every matrix from its gradient."""
        for group in self._groups:
            parameters = [self.parameters[i] for i in group]
            gradients = torch.stack([p.grad for p in parameters])  # type: ignore[misc]
            momenta = [self.momenta[i] for i in group]
            momentum = torch.stack(momenta).lerp_(gradients, 0.05)
            torch._foreach_copy_(momenta, list(momentum))
            updates = _orthogonal(gradients.lerp_(momentum, 0.95))
            updates *= max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
            torch._foreach_mul_(parameters, 1 - learning_rate * 0.01)
            torch._foreach_add_(parameters, list(updates), alpha=-learning_rate)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly: quintic Newton-Schulz."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if matrices.is_cuda or has_fast_bf16():
        x = x.bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
