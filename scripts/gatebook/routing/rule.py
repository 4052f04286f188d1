"""Routing rules: how the routers of each family turn logits into selected experts and weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from gatebook.problem import Problem

if TYPE_CHECKING:  # torch takes seconds to be imported, and most of what reads records needs none of it
    import torch


SCALARS = {
    "entropy": ("router entropy H = -sum p ln p over all experts", "nats"),
    "log_sum_exp": ("log-sum-exp of the router logits", "1"),
    "top_1_probability": ("largest probability", "1"),
    "top_k_mass": ("probability mass of the selected experts", "1"),
    "logit_margin": ("largest minus second largest router logit", "1"),
    "boundary_margin": ("k-th minus (k+1)-th largest of what the router selects by: logits, or scores plus bias", "1"),
}
"""Per-token scalars of a router's decision: long name, units."""


@dataclass(frozen=True)
class RoutingRule:
    """How a router turns logits z (token, expert) into selected experts and routing weights.

    scores: "softmax" (s = softmax(z) over all experts) or "sigmoid" (s = sigmoid(z)). The `top_k` experts with the
    largest score are selected; with `bias`, the largest score plus a trained bias per expert; with `groups` above 1,
    among the experts of the `kept_groups` groups that score best by `group_score` ("best": their best expert, "two
    best": the sum of their two best). weighting: weights are the "scores" of the selected experts, without bias, if
    `normalised` divided by their sum plus `epsilon`, or the "softmax of the selected logits"; they are multiplied by
    `scale`. precision: all this is computed in "float32", or in the dtype of the "logits"; routers may return weights
    in another dtype, and the selected experts in any order. shared_experts: how many experts every token passes
    through besides.
    """

    family: str
    experts: int
    top_k: int
    normalised: bool
    scores: str = "softmax"
    bias: bool = False
    groups: int = 1
    kept_groups: int = 1
    group_score: str = "best"
    weighting: str = "scores"
    epsilon: float = 1e-20
    scale: float = 1.0
    precision: str = "float32"
    shared_experts: int = 0

    def select(self, logits: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The selected experts (token, rank) int64, those preferred first, of raw router logits (token, expert).

        `bias` (expert,) is needed if the rule has one.
        """
        logits = self._exact(logits)
        choice = logits if self.weighting == "softmax of the selected logits" else self.score(logits)
        choice = choice + bias if self.bias else choice
        if self.groups > 1:
            choice = choice.masked_fill(~self._kept(choice), -math.inf if self.bias else 0.0)
        return choice.topk(self.top_k, dim=-1).indices

    def weights(self, logits: torch.Tensor, selected: torch.Tensor, scores: torch.Tensor | None = None) -> torch.Tensor:
        """Routing weights (token, rank) of the selected experts (token, rank), of raw router logits (token, expert);
        `scores` if they are known already."""
        logits = self._exact(logits)
        if self.weighting == "softmax of the selected logits":
            return logits.gather(-1, selected).softmax(dim=-1) * self.scale
        weights = (self.score(logits) if scores is None else scores).gather(-1, selected)
        if self.normalised:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + self.epsilon)
        return weights * self.scale

    def difference(
        self, logits: torch.Tensor, weights: torch.Tensor, selected: torch.Tensor, bias: torch.Tensor | None = None
    ) -> str | None:
        """Where the rule differs from a router's `weights` and `selected` experts (token, rank), in words.

        None if no bit differs: of the experts, in any order, and of their weights in the dtype of `weights`.
        `logits` (token, expert) and `bias` (expert,) are the router's own.
        """
        experts = self.select(logits, bias).sort(dim=-1).values
        expected = self.weights(logits, selected).to(weights.dtype)
        for what, own, computed in (("experts", selected.sort(dim=-1).values, experts), ("weights", weights, expected)):
            if not own.equal(computed):
                token = int((own != computed).any(dim=-1).nonzero()[0])
                return f"{what} of token {token}: {computed[token].tolist()} expected, {own[token].tolist()} returned"
        return None

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The scores s (token, expert) of raw router logits, in the dtype of these."""
        return logits.sigmoid() if self.scores == "sigmoid" else logits.softmax(dim=-1)

    def _exact(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.precision == "logits" else logits.float()

    def probability(self, logits: torch.Tensor, scores: torch.Tensor | None = None) -> torch.Tensor:
        """The scores (token, expert) float32 as a distribution: softmax scores are one, sigmoid scores are divided by
        their sum over all experts; `scores` if they are known already."""
        scores = self.score(logits.float()) if scores is None else scores
        return scores / scores.sum(dim=-1, keepdim=True) if self.scores == "sigmoid" else scores

    @property
    def may_skip_the_largest(self) -> bool:
        """Whether the expert with the largest score may fail to be selected: because of a bias or of groups."""
        return self.bias or self.groups > 1

    def scalars(
        self,
        logits: torch.Tensor,
        selected: torch.Tensor,
        bias: torch.Tensor | None = None,
        probability: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The per-token scalars of `SCALARS`. A margin to an expert that does not exist is NaN.

        `following.complete` has the same for arrays on the host, in a third of the time.

        Parameters
        ----------
        logits
            Raw router logits (token, expert).
        selected
            Experts (token, rank).
        bias
            Added to scores to select, (expert,), or None.
        probability
            (token, expert) float32, if it is known already.

        Returns
        -------
        dict[str, torch.Tensor]
            float32 (token,) by name.
        """
        logits = logits.float()
        probability = self.probability(logits) if probability is None else probability
        preference = self.preference(logits, bias)
        largest, best = logits.max(dim=-1, keepdim=True)
        return {
            "entropy": -(probability * logarithm(probability)).sum(dim=-1),
            "log_sum_exp": logits.logsumexp(dim=-1),
            "top_1_probability": probability.amax(dim=-1),
            "top_k_mass": probability.gather(-1, selected).sum(dim=-1),
            "logit_margin": _margin(largest[:, 0], _best_other(logits, best)),
            "boundary_margin": _margin(preference.gather(-1, selected).amin(dim=-1), _best_other(preference, selected)),
        }

    @property
    def in_the_weights(self) -> set[str]:
        """The scalars that follow from the routing weights alone.

        The weights of softmax scores are proportional to p. Unless a bias or groups decide, the largest two are those
        of the two largest logits; unless they are normalised, their sum is the mass.
        """
        if self.scores != "softmax":
            return set()
        first = set() if self.may_skip_the_largest or self.top_k < 2 else {"logit_margin"}
        return first | (set() if self.normalised else {"top_k_mass"} | (first and {"top_1_probability"}))

    def preference(self, logits: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """What the selected experts are the k largest of, (token, expert) float32: logits, or scores plus bias.

        Experts of groups that are not kept have -infinity.
        """
        preference = logits.float() if bias is None else self.score(logits.float()) + bias
        return preference if self.groups == 1 else preference.masked_fill(~self._kept(preference), -math.inf)

    def as_json(self, **more) -> str:
        """The rule, and `more` about the model's layers, as sorted JSON: the attribute `routing_rule` of outputs."""
        return json.dumps(asdict(self) | more, sort_keys=True)

    def _kept(self, choice: torch.Tensor) -> torch.Tensor:
        """Whether each expert is in a group that is kept, (token, expert) bool."""
        grouped = choice.unflatten(-1, (self.groups, -1))
        best = grouped.topk(2 if self.group_score == "two best" else 1, dim=-1).values.sum(dim=-1)
        kept = best.topk(self.kept_groups, dim=-1, sorted=False).indices
        mask = best.new_zeros(best.shape).scatter_(-1, kept, 1).bool()
        return mask.repeat_interleave(self.experts // self.groups, dim=-1)


def check_rule(
    rule: RoutingRule,
    layer: int,
    logits: torch.Tensor,
    weights: torch.Tensor,
    selected: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """Compare the rule applied to captured logits with the module's own choice.

    Parameters
    ----------
    rule
        Of the model.
    layer
        Number of the layer.
    logits
        (token, expert).
    weights, selected
        What the module returned: (token, rank).
    bias
        Added to scores to select, (expert,), or None.

    Raises
    ------
    Problem
        If a bit differs.
    """
    if not bool(logits.isfinite().all()):
        return  # `extraction.make_records` names it
    if difference := rule.difference(logits, weights, selected, bias):
        raise Problem(
            f"layer {layer}: the router did not follow the rule of the model's family ({rule.as_json()}) on the first "
            f"batch, {difference}; its records cannot be trusted: report this model."
        )


def logarithm(probability: torch.Tensor) -> torch.Tensor:
    """ln p, and that of the smallest float where p is 0, so that p ln p is 0 there."""
    return probability.clamp(min=2.0**-149).log_()


def _best_other(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The largest of the values (token, expert) that are not chosen (token, rank): (token,)."""
    return values.scatter(-1, chosen, -math.inf).amax(dim=-1)


def _margin(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Value less the other one, (token,); NaN where the other is not finite."""
    return (value - other).where(other.isfinite(), math.nan)


def routing_rule_of(attributes: dict) -> RoutingRule:
    """The routing rule that records, tallies and metrics carry in their attribute `routing_rule`."""
    written = json.loads(attributes["routing_rule"])
    return RoutingRule(**{field.name: written[field.name] for field in fields(RoutingRule) if field.name in written})
