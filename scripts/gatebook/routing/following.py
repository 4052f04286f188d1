"""What follows from records: routing weights and scalars of tokens, of arrays in the host's memory."""

import numba
import numpy as np

from gatebook.routing.rule import RoutingRule


def complete(record: dict[str, np.ndarray], rule: RoutingRule, bias: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What a block of records says and what follows from it: `routing_weight` and all `SCALARS` beside the rest.

    Records with `router_logits` hold nothing that follows from these and from `selected_expert`, and get `probability`
    (token, expert), too; compact ones hold the weights, and the scalars that do not follow from them.
    """
    if "router_logits" in record:
        return record | _of_logits(record, rule, bias)
    weights, whole = record["routing_weight"], dict(record)
    if "top_k_mass" in rule.in_the_weights:
        whole["top_k_mass"] = weights.sum(axis=-1) / np.float32(rule.scale)
    if "logit_margin" in rule.in_the_weights:
        whole["logit_margin"] = np.log(weights[:, 0] / weights[:, 1])
    if "top_1_probability" in rule.in_the_weights:
        whole["top_1_probability"] = weights[:, 0] / np.float32(rule.scale)
    return whole


def _of_logits(record: dict[str, np.ndarray], rule: RoutingRule, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    """What follows from the logits and the selected experts of a block of records."""
    import torch  # takes a second, and compact records need none of it

    from gatebook.routing.rule import logarithm

    selected = torch.from_numpy(record["selected_expert"].astype(np.int64))
    logits, added = torch.from_numpy(record["router_logits"]), None if bias is None else torch.from_numpy(bias)
    scores = rule.score(logits)
    probability, is_softmax = rule.probability(logits, scores), rule.scores == "softmax"
    logarithms = logits if is_softmax else logarithm(probability)
    given = [values.numpy() for values in (logits, probability, logarithms, rule.preference(logits, added))]
    names = ("entropy", "top_1_probability", "top_k_mass", "logit_margin", "boundary_margin", "log_sum_exp")
    by_logits = not rule.may_skip_the_largest
    found = dict(zip(names, _scalars(*given, record["selected_expert"], by_logits, is_softmax), strict=True))
    for name in ("logit_margin", "boundary_margin"):
        found[name][~np.isfinite(found[name])] = np.nan  # there is no other expert
    if not is_softmax:
        found["log_sum_exp"] = logits.logsumexp(dim=-1).numpy()
    found["probability"] = probability.numpy()
    return found | {"routing_weight": rule.weights(logits, selected, scores).numpy()}


@numba.njit(nogil=True, cache=True)
def _scalars(logits, probability, logarithms, preference, selected, by_logits, is_softmax):
    """Entropy, largest probability, selected mass, margins, log-sum-exp as in `SCALARS`: (scalar, token) float32.

    Arrays are (token, expert), `selected` (token, rank). `by_logits`: whether preferences are the logits. `is_softmax`:
    whether ln p is the `logarithms` less log-sum-exp, else it is these themselves and log-sum-exp is 0. A margin to an
    expert that does not exist is infinite.
    """
    tokens, experts = logits.shape
    out, left = np.empty((6, tokens), dtype=np.float32), np.empty(experts, dtype=np.float32)
    for token in range(tokens):
        z, p, chosen = logits[token], probability[token], selected[token]
        for expert in range(experts):  # a slice takes longer
            left[expert] = preference[token, expert]
        mass, worst, second = 0.0, left[chosen[0]], np.float32(-np.inf)
        for rank in range(len(chosen)):
            mass += p[chosen[rank]]
            worst = min(worst, left[chosen[rank]])
            if rank:
                second = max(second, left[chosen[rank]])
        for expert in chosen:
            left[expert] = -np.inf
        other, largest, best = _largest(left), _largest(z), np.int64(chosen[0])
        if by_logits and z[best] == largest:
            second = max(second, other)
        else:
            best = np.argmax(z)
            left[:] = z
            left[best] = -np.inf
            second = _largest(left)
        log_sum_exp = np.float64(largest) - np.log(np.float64(p[best])) if is_softmax else 0.0
        out[0, token] = -_product(p, logarithms[token], log_sum_exp)
        out[1, token] = p[best]
        out[2, token] = mass
        out[3, token] = largest - second
        out[4, token] = worst - other
        out[5, token] = log_sum_exp
    return out


@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _largest(values):
    """The largest value; none is NaN, which lets the processor compare many at once."""
    largest = values[0]
    for value in values:
        largest = max(largest, value)
    return largest


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _product(one, other, less):
    """The sum of products of one, and of what the other is above a number, in float64."""
    total = 0.0
    for index in range(len(one)):
        total += np.float64(one[index]) * (np.float64(other[index]) - less)
    return total
