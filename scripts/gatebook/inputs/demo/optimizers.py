"""Optimisers of the embedded demonstration: Muon for matrices, AdamW for everything else, and their schedule."""

import torch
from torch import nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """Approximate U V^T of each matrix U S V^T, by Newton-Schulz iteration; `matrices` (..., rows, columns).

    Singular values of the result lie near 1 (within about 0.7 to 1.2 after five steps; small ones lag behind after
    fewer), singular vectors are kept. Coefficients: K. Jordan et al., "Muon: an optimizer for hidden layers in neural
    networks" (2024).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024); a stack of matrices is taken one by one.

    The update has the size that AdamW's would have, 0.2 sqrt(larger side) (J. Liu et al., "Muon is scalable for LLM
    training", 2025), so that one learning rate serves both. A parameter with `stacked` = n holds n matrices above each
    other (the gate and up projections of an expert), which are orthogonalised apart.
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "stacked": 1})

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter by its gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])
                rows, columns = parameter.shape[-2] // group["stacked"], parameter.shape[-1]
                update = orthogonalise(update.reshape(-1, rows, columns)).reshape(parameter.shape)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)


def build(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and experts, AdamW for embeddings, output head, norms and routers."""
    matrices, stacked, rest = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith("gate_up_proj"):
            stacked.append(parameter)
        elif parameter.ndim < 2 or any(part in name for part in ("embed_tokens", "lm_head", "mlp.gate.")):
            rest.append(parameter)
        else:
            matrices.append(parameter)
    muon = Muon([{"params": matrices}, {"params": stacked, "stacked": 2}], lr=learning_rate)
    adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adamw]


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: 4 % warm-up, constant, linear to 2 % in the last half."""
    warm_up = max(10, round(0.04 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 1.0 if done < 0.5 else 1.0 - 0.98 * (2 * done - 1)


def set_learning_rate(optimisers: list[torch.optim.Optimizer], learning_rate: float) -> None:
    """Give every parameter of every optimiser this learning rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate
