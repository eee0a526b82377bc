"""AdamW of torch behind the interface of FusedAdam, which Megatron's optimiser expects."""

from typing import Any

import torch
from torch.optim.adamw import adamw


class FusedAdamOnTorch(torch.optim.Optimizer):
    """torch's fused AdamW; the step count lives in the parameter group, as in FusedAdam.

    Megatron's DistributedOptimizer then shards, saves and reshards its state as it does on GPUs.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        bias_correction: bool = True,
        **_: Any,
    ) -> None:
        assert adam_w_mode and bias_correction, "only AdamW with bias correction is offered"
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"bias_correction": bias_correction})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            group["step"] = int(group["step"]) + 1 if "step" in group else 1
            params = [p for p in group["params"] if p.grad is not None and p.numel()]
            if not params:
                continue
            for param in params:
                self._state_of(param)
            # The functional form counts up by itself from the steps already taken, where the
            # parameters are.
            steps = torch.full((len(params),), float(group["step"] - 1), device=params[0].device)
            adamw(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                list(steps.unbind()),
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _state_of(self, param: torch.Tensor) -> None:
        if not self.state[param]:
            self.state[param]["exp_avg"] = torch.zeros_like(param)
            self.state[param]["exp_avg_sq"] = torch.zeros_like(param)
