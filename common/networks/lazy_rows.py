"""AdamW in which a row of a table is only touched when it was used, with moments and a step count of its own.

torch's ``SparseAdam`` counts steps for the table as a whole, so a row that is seldom used starts with corrections of a long-trained one;
its ``AdamW`` moves unused rows by momentum and decays them.
"""

from __future__ import annotations

from typing import Any

import torch

from common.errors import UserError


def adam_rows(
    weight: torch.Tensor,
    grad: torch.Tensor,
    state: dict[str, torch.Tensor],
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    r"""One step of Adam, in place, for the rows whose gradient is not zero; all other rows keep weights, moments and step count.

    .. math:: m = \beta_1 m + (1 - \beta_1) g, \quad v = \beta_2 v + (1 - \beta_2) g^2, \quad
              w = w - \eta \frac{m / (1 - \beta_1^s)}{\sqrt{v / (1 - \beta_2^s)} + \epsilon}

    Args:
        weight: table :math:`w`, ``(K, size)``.
        grad: its gradient :math:`g`, same shape.
        state: ``step`` :math:`s` ``(K,)``, ``exp_avg`` :math:`m` and ``exp_avg_sq`` :math:`v`, both ``(K, size)``.
        lr: step size :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`.
    """
    rows = grad.ne(0).any(dim=1).nonzero()[:, 0]
    used = grad[rows]
    step = state["step"][rows] + 1
    mean = state["exp_avg"][rows].lerp(used, 1 - betas[0])
    square = state["exp_avg_sq"][rows] * betas[1] + (1 - betas[1]) * used.square()
    state["step"][rows], state["exp_avg"][rows], state["exp_avg_sq"][rows] = step, mean, square
    count = step.double()[:, None]  # 1 - beta^s cancels in float32
    corrected = mean / (1 - betas[0] ** count).to(mean)
    weight[rows] -= lr * corrected / ((square / (1 - betas[1] ** count).to(square)).sqrt() + eps)


class LazyRowAdamW(torch.optim.AdamW):
    """AdamW whose groups flagged ``lazy_rows=True`` step by :func:`adam_rows`, without weight decay; other groups are torch's.

    Args:
        params: groups; those with ``"lazy_rows": True`` hold tables ``(K, size)``.
        lr: step size.
        betas: decay of the two moments.
        eps: added to the root.
        weight_decay: of the other groups.

    Source: Neonatal INR, Sec. 3 (AdamW, torch's defaults). Deviation: the released code gives latents the dense optimiser, under which an
    identity drifts and shrinks while others are seen.
    """

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all groups."""
        groups = self.param_groups
        lazy = [group for group in groups if group.get("lazy_rows", False)]
        try:
            self.param_groups = [group for group in groups if not group.get("lazy_rows", False)]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in lazy:
            for table in group["params"]:
                if table.grad is not None:
                    adam_rows(table, table.grad, self._rows_of(table), group["lr"], group["betas"], group["eps"])
        return loss

    def _rows_of(self, table: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[table]
        if not state:
            state["step"] = table.new_zeros(len(table))
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave.

        Raises:
            UserError: it is of a table with another number of rows.
        """
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for table in group["params"] if group.get("lazy_rows", False) else ():
                held = self.state.get(table)
                if not held:
                    continue
                if held["exp_avg"].shape != table.shape:
                    raise UserError(
                        f"optimizer: its state is of a table {tuple(held['exp_avg'].shape)}, this one is {tuple(table.shape)}."
                        " To go on with other data, start anew from the weights (--weights) instead of resuming."
                    )
                held["step"] = held["step"].to(table)  # torch leaves a "step" on the CPU
