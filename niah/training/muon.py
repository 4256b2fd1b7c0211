"""Muon with steps relative to what they change."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from niah.engines.inference import usable

LEAST_SIZE = 0.02


class RelativeMuon(torch.optim.Muon):
    """Muon whose step is a share of the size of each head's part of a matrix, at the beginning.

    A step of Muon (https://kellerjordan.github.io/posts/muon) moves all directions of a matrix alike. Structured weights differ in size
    by a factor of fifty from head to head: what is small there was gone within ten steps.

    `heads` gives, by the id of a matrix, the dimension along which heads lie one after the other, and how many there are.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], rate: float, heads: dict[int, tuple[int, int]]):
        super().__init__(matrices, lr=rate, momentum=0.95, weight_decay=0.0)
        self._half = usable(torch.bfloat16, str(matrices[0].device)) == torch.bfloat16
        self._sizes = [_sizes(matrix.detach(), *heads.get(id(matrix), (0, 1))) for matrix in matrices]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, as in torch."""
        matrices: list[nn.Parameter] = self.param_groups[0]["params"]
        before = [matrix.clone() for matrix in matrices]
        loss = super().step(closure) if self._half else self._step()
        for matrix, old, size in zip(matrices, before, self._sizes, strict=True):
            matrix.copy_(old + (matrix - old) * size)
        return loss

    def _step(self) -> None:
        """torch's step computes in bfloat16; a CPU that only emulates it takes seven times as long. The same in float32."""
        group = self.param_groups[0]
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state: dict[str, Tensor] = self.state[matrix]
            momentum = state.setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
            momentum.lerp_(matrix.grad, 1 - group["momentum"])
            update = matrix.grad.lerp(momentum, group["momentum"])
            rate = group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            matrix.add_(_orthogonal(update), alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        """With the sizes, which a resumed run cannot measure again."""
        return super().state_dict() | {"sizes": self._sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch."""
        self._sizes = state_dict["sizes"]
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "sizes"})


def _orthogonal(update: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iterations towards the nearest matrix with singular values of 1, with the coefficients of Muon's author."""
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.T if update.shape[0] > update.shape[1] else x


def _sizes(matrix: Tensor, dimension: int, heads: int) -> Tensor:
    """The singular values' root mean square in each head's part, spread over its rows or columns."""
    parts = matrix.chunk(heads, dim=dimension)
    sizes = [torch.full_like(part, max(LEAST_SIZE, float(part.norm()) / min(part.shape) ** 0.5)) for part in parts]
    spread = torch.cat(sizes, dim=dimension)
    return spread[:, :1].clone() if dimension == 0 else spread[:1].clone()
