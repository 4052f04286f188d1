"""How alike the experts of one layer are: what they give for the same tokens, their weights, their router rows.

Heavy sums run in torch on the device of the block and are added up in float64; outputs stay in the block's dtype. No
matrix over tokens x tokens is kept: what is needed of it is summed block by block and by group of documents, so that
leaving out a group is exact. Functions return numpy arrays over `expert` and `other`, those on outputs with a first
axis `draw` (1 + GROUPS): all tokens, then without each group of documents.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import scipy.special
import torch
import xarray as xr
from joblib import Parallel
from torch import nn

from gatebook.chapters.similarity import matching
from gatebook.chapters.similarity.measure import OUTPUTS, SPACES, means_without_each, pair_means_without_each
from gatebook.inputs.clusters import GROUPS
from gatebook.routing import models
from gatebook.routing.models import ExpertMatrices
from gatebook.study.samples import Block

TOKENS_PER_BLOCK = 128
TOKENS_PER_BATCH = 64  # of those that pass all experts at once
ELEMENTS_PER_BLOCK = 1 << 24
RANDOM_EXPERTS, RANDOM_PAIRS = 16, 100  # at most; the pairs whose neurons are matched
READING_EXPERTS = 16  # at most: the spaces that they read are those of large matrices
FEWEST_SHARED = 10
"""Pairs of experts that fewer sampled tokens select both have no co-routed cosine."""
WEIGHTS = ("weight_cosine", "matched_weight_cosine", "weight_gram", "subspace_overlap")
SPECTRA = ("effective_rank", "participation_ratio")


def layers(
    blocks: Iterable[Block], folder: str, group: np.ndarray, *, matched_pairs: int, seed: int, workers: int
) -> Iterator[xr.Dataset]:
    """What `measure_layer` finds, for one layer of a model after another.

    Parameters
    ----------
    blocks
        Of the model's layers, in order.
    folder
        Of the model.
    group
        The group of the document of each sampled token: (token,) int.
    matched_pairs
        At most so many pairs of experts have their neurons matched.
    seed
        The pairs of a layer are drawn with it and the layer's number.
    workers
        Processes that match neurons.

    Yields
    ------
    xarray.Dataset
        With the coordinate `layer`.
    """
    routers = models.read_router_rows(folder)
    following = dict(pairwise(routers["layer"].values.tolist()))
    with matching.pool(workers) as pool:
        for number, module, states, selected in blocks:
            found = measure_layer(
                module,
                states,
                selected,
                group,
                models.block_gain(folder, number),
                _gained(routers, folder, following[number]) if number in following else None,
                matched_pairs=matched_pairs,
                seed=[seed, number],
                workers=pool,
            )
            yield found.assign_coords(layer=number)


def _gained(routers: xr.DataArray, folder: str, layer: int) -> np.ndarray:
    """The rows of a layer's router times the gain of the norm before it: as they read the state before that norm."""
    rows, gain = routers.sel(layer=layer).values, models.block_gain(folder, layer)
    return rows if gain is None else rows * gain


@torch.inference_mode()
def measure_layer(
    block: nn.Module,
    states: np.ndarray,
    selected: np.ndarray,
    group: np.ndarray,
    gain: np.ndarray | None,
    next_direction: np.ndarray | None,
    *,
    matched_pairs: int,
    seed: list[int],
    workers: Parallel,
) -> xr.Dataset:
    """Everything that is measured on the experts of one layer.

    Parameters
    ----------
    block
        Its Mixture-of-Experts block; its first experts are overwritten.
    states
        What the block's router received for the sampled tokens: (token, hidden).
    selected
        The experts that it chose: (token, rank) int.
    group
        The group of each token's document: (token,) int.
    gain
        That of the RMSNorm before the block, (hidden,), or None.
    next_direction
        `router_direction` of the next layer with experts, (expert, hidden); None for the last one.
    matched_pairs
        At most so many pairs of experts have their neurons matched.
    seed
        Of the draws of pairs, of random experts and of random spaces.
    workers
        They match neurons, see `matching.pool`.

    Returns
    -------
    xarray.Dataset
        What `output_similarity`, `weight_similarity`, `spectra`, `overlaps`, `cosines` and `alignment` find under these
        names: `OUTPUTS` (draw, expert, other), `permuted_*` (expert, other) their values for permuted tokens,
        `WEIGHTS`, `router_cosine`, `gained_router_cosine` (expert, other), `alignment(expert, router)`, `SPECTRA`
        (expert,); and besides `router_direction(expert, hidden)`, the router's rows times the gain;
        `principal_angle(direction)` in degrees, a mean over pairs; `co_routed_tokens(expert, other)` int64. `random_*`
        (part,): means over pairs of Gaussian experts with the block's shapes and scales, of all of them and without
        each. For each of `SPACES` what `router_overlap` finds under this name and as `angle_*`, (expert,) and (expert,
        spanned), or over `reader`, the first `READING_EXPERTS`; `random_*` and `random_angle_*` are means over random
        spaces in place of those of experts.
    """
    matrices, rows = models.expert_matrices(block), models.router_rows(block)
    experts, hidden = rows.shape
    directions = max(1, hidden // 16)
    chosen = np.zeros((len(states), experts), dtype=bool)
    np.put_along_axis(chosen, selected, True, axis=1)
    pairs = _drawn_pairs(experts, matched_pairs, seed)
    sums = matched_sums(matrices, pairs, workers)
    found, permuted = output_similarity(every_output(block, states, experts), chosen, group)
    spanned = min(*rows.shape, matrices.up.shape[1])
    squares, written = leading(matrices.down, max(directions, spanned))
    found |= weight_similarity(matrices, pairs, sums) | spectra(squares) | overlaps(written[..., :directions])
    direction = rows if gain is None else rows * gain
    dims = dict.fromkeys(SPECTRA, ("expert",)) | {"principal_angle": ("direction",)}
    made = {
        name: (dims.get(name, ("draw", "expert", "other")[-values.ndim :]), values) for name, values in found.items()
    }
    made |= {f"permuted_{name}": (("expert", "other"), values) for name, values in permuted.items()}
    made["router_cosine"] = (("expert", "other"), cosines(rows))
    made["gained_router_cosine"] = (("expert", "other"), cosines(direction))
    made["router_direction"] = (("expert", "hidden"), direction)
    made["alignment"] = (("expert", "router"), alignment(matrices, rows))
    count = chosen.astype(np.int64)
    made["co_routed_tokens"] = (("expert", "other"), count.T @ count)
    made |= _router_spaces(matrices, written[..., :spanned], (rows, direction, next_direction), seed)
    return xr.Dataset(made | _random(block, states, chosen, directions, seed, workers))


def _router_spaces(
    matrices: ExpertMatrices, written: torch.Tensor, routers: tuple[np.ndarray | None, ...], seed: list[int]
) -> dict:
    """What `measure_layer` returns for `SPACES`, whose routers' rows are `routers`, None where there is no router."""
    experts, hidden, spanned = written.shape
    few = matrices.take(READING_EXPERTS)
    _, read = leading((torch.cat(pair).mT for pair in zip(few.gate, few.up, strict=True)), spanned)
    drawn = np.random.default_rng(seed).standard_normal((min(RANDOM_EXPERTS, experts), hidden, spanned))
    random = torch.from_numpy(np.linalg.qr(drawn)[0]).to(written)
    made = {}
    for name, bases, rows in zip(SPACES, (read, written, written), routers, strict=True):
        (share, angle), (by_chance, angle_by_chance) = (router_overlap(each, rows) for each in (bases, random))
        own = "reader" if bases is read else "expert"
        made |= {name: (own, share), f"angle_{name}": ((own, "spanned"), angle)}
        made[f"random_{name}"] = "part", means_without_each(by_chance)
        made[f"random_angle_{name}"] = ("part", "spanned"), means_without_each(angle_by_chance)
    return made


def _random(
    block: nn.Module, states: np.ndarray, chosen: np.ndarray, directions: int, seed: list[int], workers: Parallel
) -> dict:
    """Measures of random experts, after the block's first ones have been overwritten by them."""
    experts = min(RANDOM_EXPERTS, chosen.shape[1])
    models.randomise_experts(block, experts, seed)
    matrices = models.expert_matrices(block).take(experts)
    group = np.zeros(len(states), dtype=np.int64)
    found, _ = output_similarity(every_output(block, states, experts), chosen[:, :experts], group)
    found = {name: values[0] for name, values in found.items()}
    pairs = _drawn_pairs(experts, RANDOM_PAIRS, seed)
    found |= weight_similarity(matrices, pairs, matched_sums(matrices, pairs, workers))
    squares, written = leading(matrices.down, directions)
    found |= spectra(squares) | overlaps(written)
    means = {f"random_{name}": ("part", pair_means_without_each(found[name])) for name in (*OUTPUTS, *WEIGHTS)}
    means |= {f"random_{name}": ("part", means_without_each(found[name])) for name in SPECTRA}
    return means | {"random_principal_angle": ("direction", found["principal_angle"])}


def _drawn_pairs(experts: int, number: int, seed: list[int]) -> np.ndarray:
    """At most `number` pairs of different experts, drawn at random, in order: (pair, 2)."""
    pairs = np.stack(np.triu_indices(experts, 1), axis=1)
    return pairs[np.sort(np.random.default_rng(seed).permutation(len(pairs))[:number])]


def cosines(rows: np.ndarray) -> np.ndarray:
    """Cosines (row, other) float64 between the rows of a matrix."""
    rows = rows.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def every_output(block: nn.Module, states: np.ndarray, experts: int) -> torch.Tensor:
    """What the first `experts` experts give for all tokens, in the block's dtype: (expert, token, hidden)."""
    weight = models.expert_matrices(block).down
    outputs = torch.empty(experts, *states.shape, dtype=weight.dtype, device=weight.device)
    for start in range(0, len(states), TOKENS_PER_BATCH):
        rows = slice(start, start + TOKENS_PER_BATCH)
        batch = torch.from_numpy(states[rows]).to(outputs)
        every = torch.arange(experts, device=weight.device).expand(len(batch), -1)
        outputs[:, rows] = models.expert_outputs(block, batch, every).swapaxes(0, 1)
    return outputs


# ---------------------------------------------------------------- outputs


@torch.inference_mode()
def output_similarity(
    outputs: torch.Tensor, chosen: np.ndarray, group: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """How alike the outputs (expert, token, hidden) of experts are for the same tokens.

    `chosen` (token, expert) bool says which experts each token selects, `group` (token,) the group of its document.
    Returns the measures `OUTPUTS`, float64 (draw, expert, other), and their exact means over all permutations of the
    tokens of one of the two experts, (expert, other):

    - output_cosine: mean over tokens t of cos(y_it, y_jt); mean_removed_cosine: the same of y less its mean over all
      sampled tokens; co_routed_cosine: output_cosine over the tokens that select both, NaN below `FEWEST_SHARED`.
      For cosines only permutations that leave no token in its place count.
    - biased_cka: HSIC(K_i, K_j) / sqrt(HSIC(K_i, K_i) HSIC(K_j, K_j)) with K = Y Y^T and HSIC = tr(K H L H), H = I -
      1/n; cka: the same with the unbiased HSIC_1 (Song et al., 2012), which is 0 on average for permuted tokens.
    """
    mean = torch.stack([expert.double().mean(dim=0) for expert in outputs]).float()
    none = torch.zeros_like(mean)
    raw, removed = _cosine_sums(outputs, none, chosen, group), _cosine_sums(outputs, mean, None, group)
    tokens = np.bincount(group, minlength=GROUPS)[:, None, None]
    shared = np.stack([chosen[group == one].T.astype(np.int64) @ chosen[group == one] for one in range(GROUPS)])
    enough = shared.sum(axis=0) >= FEWEST_SHARED
    found, permuted = _cka(outputs, mean, group)
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, sums, unit, count in (
            ("output_cosine", raw[0], raw[1], tokens),
            ("mean_removed_cosine", removed[0], removed[1], tokens),
            ("co_routed_cosine", raw[2], raw[3], shared),
        ):
            whole, size = sums.sum(axis=0), count.sum(axis=0)
            found[name] = np.concatenate([[whole / size], (whole - sums) / (size - count)])
            permuted[name] = (unit - whole) / (size * (size - 1.0))
    for values in (found["co_routed_cosine"], permuted["co_routed_cosine"]):
        values[..., ~enough] = np.nan
    return found, permuted


def _cosine_sums(
    outputs: torch.Tensor, mean: torch.Tensor, chosen: np.ndarray | None, group: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Sums over tokens of the cosines of outputs less `mean` (expert, hidden), by group: (group, expert, other).

    And the same over all pairs of tokens (expert, other). With `chosen`, both again over the tokens that select both
    experts.
    """
    experts, tokens, hidden = outputs.shape
    wide = {"dtype": torch.float64, "device": outputs.device}
    sums = torch.zeros(2, GROUPS, experts, experts, **wide)
    unit_sum = torch.zeros(experts, hidden, **wide)
    shared_sum = torch.zeros(experts, experts, hidden, device=outputs.device)
    groups = torch.from_numpy(group.astype(np.int64)).to(outputs.device)
    for start in range(0, tokens, TOKENS_PER_BLOCK):
        rows = slice(start, start + TOKENS_PER_BLOCK)
        unit = nn.functional.normalize(outputs[:, rows].float() - mean[:, None], dim=-1)
        unit_sum += unit.sum(dim=1)
        cosine = torch.bmm(unit.swapaxes(0, 1), unit.permute(1, 2, 0)).double()
        sums[0].index_add_(0, groups[rows], cosine)
        if chosen is not None:
            select = torch.from_numpy(chosen[rows]).to(outputs.device)
            sums[1].index_add_(0, groups[rows], cosine * (select[:, :, None] & select[:, None, :]))
            both = (select.T[:, None] & select.T).float()
            shared_sum += torch.bmm(both, unit)
    all_pairs = (unit_sum @ unit_sum.T).cpu().numpy()
    if chosen is None:
        return sums[0].cpu().numpy(), all_pairs
    shared_pairs = torch.stack([(shared_sum[one] * shared_sum[:, one]).sum(dim=-1) for one in range(experts)])
    return sums[0].cpu().numpy(), all_pairs, sums[1].cpu().numpy(), shared_pairs.double().cpu().numpy()


def _cka(outputs: torch.Tensor, mean: torch.Tensor, group: np.ndarray) -> tuple[dict, dict]:
    """`cka` and `biased_cka` (draw, expert, other), and their means over permutations (expert, other)."""
    blocks = []
    for one in np.unique(group):
        rows = torch.from_numpy(np.flatnonzero(group == one)).to(outputs.device)
        blocks += [(int(one), part) for part in rows.split(TOKENS_PER_BLOCK)]
    experts, tokens, _ = outputs.shape
    wide = {"dtype": torch.float64, "device": outputs.device}
    # tr(K L) without the diagonals: over pairs of tokens of which one is in the group, and of which both are
    touching, within = torch.zeros(2, GROUPS, experts, experts, **wide)
    row_sum = torch.zeros(experts, tokens, GROUPS, **wide)  # of K without its diagonal, by the group of the column
    diagonal = torch.zeros(experts, tokens, **wide)
    for index, (one, rows) in enumerate(blocks):
        left = outputs[:, rows].float() - mean[:, None]
        diagonal[:, rows] = left.double().square().sum(dim=-1)
        for other, columns in blocks[index:]:
            same = columns is rows
            kernel = torch.bmm(left, (outputs[:, columns].float() - mean[:, None]).mT).double()
            if same:
                kernel.diagonal(dim1=1, dim2=2).zero_()
            row_sum[:, rows, other] += kernel.sum(dim=2)
            if not same:
                row_sum[:, columns, one] += kernel.sum(dim=1)
            flat = kernel.flatten(start_dim=1)
            trace = flat @ flat.T
            touching[one] += trace
            if not same:
                touching[other] += trace
            if one == other:
                within[one] += trace if same else 2 * trace
    sums = [array.cpu().numpy() for array in (touching, within, row_sum, diagonal)]
    values = [_cka_without(*sums, group, left_out) for left_out in range(-1, GROUPS)]
    found = {name: np.stack([value[name] for value in values]) for name in ("cka", "biased_cka")}
    return found, {"cka": np.zeros((experts, experts)), "biased_cka": values[0]["permuted"]}


def _cka_without(
    touching: np.ndarray,
    within: np.ndarray,
    row_sum: np.ndarray,
    diagonal: np.ndarray,
    group: np.ndarray,
    left_out: int,
) -> dict[str, np.ndarray]:
    """CKA from the sums of `_cka`, without the tokens of one group (-1: none)."""
    kept = group != left_out
    n, trace, rows = kept.sum(), touching.sum(axis=0), row_sum.sum(axis=2)
    if left_out >= 0:
        trace = trace - 2 * touching[left_out] + within[left_out]
        rows = rows - row_sum[..., left_out]
    if n < 4:
        return dict.fromkeys(("cka", "biased_cka", "permuted"), np.full(trace.shape, np.nan))
    rows, diagonal = rows[:, kept], diagonal[:, kept]
    total = rows.sum(axis=1)
    unbiased = trace + np.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ rows.T)
    full = rows + diagonal
    whole = full.sum(axis=1)
    biased = trace + diagonal @ diagonal.T - 2 / n * (full @ full.T) + np.outer(whole, whole) / n**2
    centred_trace = diagonal.sum(axis=1) - whole / n
    permuted = _normalised(np.outer(centred_trace, centred_trace) / (n - 1), np.diag(biased))
    return {"cka": _normalised(unbiased), "biased_cka": _normalised(biased), "permuted": permuted}


def _normalised(products: np.ndarray, squares: np.ndarray | None = None) -> np.ndarray:
    """Products (expert, other) over the roots of those of each expert with itself; NaN where one is not positive.

    Those of i and j are taken where i <= j: matrix products may differ in the last bits from their transposes.
    """
    products = np.triu(products) + np.triu(products, 1).T
    squares = np.diag(products) if squares is None else squares
    root = np.sqrt(np.where(squares > 0, squares, np.nan))
    return products / np.outer(root, root)


# ---------------------------------------------------------------- weights


@torch.inference_mode()
def weight_similarity(matrices: ExpertMatrices, pairs: np.ndarray, sums: Iterable[float]) -> dict[str, np.ndarray]:
    """How alike the weights of experts are, float64 (expert, other).

    A neuron's vector is its row of gate, its row of up and its column of down, one after another. weight_cosine: cosine
    of all weights in their order; matched_weight_cosine: the same after the neurons of one expert are put in the order
    that makes it largest, for the given `pairs` (pair, 2) of experts with their `matched_sums`, else NaN; weight_gram:
    cosine of W^T W, where the rows of W (3 neurons, hidden) are those of gate and up and the columns of down: neuron
    order does not matter.
    """
    experts, neurons, hidden = matrices.up.shape
    inner, gram = torch.zeros(2, experts, experts, dtype=torch.float64, device=matrices.up.device)
    step = max(1, ELEMENTS_PER_BLOCK // (3 * experts * hidden))
    for start in range(0, neurons, step):
        part = slice(start, start + step)
        flat = torch.cat([matrices.gate[:, part], matrices.up[:, part], matrices.down[..., part].mT], dim=1).float()
        inner += (flat.flatten(start_dim=1) @ flat.flatten(start_dim=1).T).double()
    step = max(1, ELEMENTS_PER_BLOCK // (experts * hidden))
    for start in range(0, hidden, step):
        part = slice(start, start + step)
        rows = torch.stack([_stacked(matrices, one)[:, part].T @ _stacked(matrices, one) for one in range(experts)])
        gram += (rows.flatten(start_dim=1) @ rows.flatten(start_dim=1).T).double()
    square = torch.diagonal(inner).cpu().numpy()
    matched = np.full((experts, experts), np.nan)
    np.fill_diagonal(matched, 1.0)
    for (one, other), total in zip(pairs, sums, strict=True):
        matched[one, other] = matched[other, one] = total / np.sqrt(square[one] * square[other])
    return {
        "weight_cosine": _normalised(inner.cpu().numpy()),
        "matched_weight_cosine": matched,
        "weight_gram": _normalised(gram.cpu().numpy()),
    }


def matched_sums(matrices: ExpertMatrices, pairs: np.ndarray, workers: Parallel) -> Iterator[float]:
    """For each of `pairs` (pair, 2) of experts, in order, the largest sum of products of their neurons' vectors.

    Each neuron of one has a neuron of the other. More than one of the `workers` begins at once, and does the rest as
    sums are taken: the matrices must not change before.
    """
    return matching.largest_sums(_products(matrices, pairs), workers)


def _products(matrices: ExpertMatrices, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Products of the vectors of the neurons of two experts, pair by pair: (neuron, other) float32."""
    last, mine = None, None
    for one, other in pairs:
        if one != last:
            last, mine = one, _neurons(matrices, one)
        yield (mine @ _neurons(matrices, other).T).cpu().numpy()


def _stacked(matrices: ExpertMatrices, expert: int) -> torch.Tensor:
    """Rows of gate and up and columns of down of one expert: (3 neurons, hidden) float32."""
    return torch.cat([matrices.gate[expert], matrices.up[expert], matrices.down[expert].T]).float()


def _neurons(matrices: ExpertMatrices, expert: int) -> torch.Tensor:
    """The vector of each neuron of one expert: (neuron, 3 hidden) float32, without a gate (neuron, 2 hidden)."""
    parts = (matrices.gate[expert], matrices.up[expert], matrices.down[expert].T)
    return torch.cat([part for part in parts if len(part)], dim=1).float()


# ---------------------------------------------------------------- spaces


@torch.inference_mode()
def leading(matrices: Iterable[torch.Tensor], directions: int) -> tuple[np.ndarray, torch.Tensor]:
    """Squared singular values of the matrices (hidden, column) of experts, and their leading left singular vectors.

    Squares (expert, value) float64, and orthonormal vectors (expert, hidden, direction) float32, the strongest first:
    as many as there are values, if these are fewer than `directions`.
    """
    squares, bases = [], []
    for matrix in matrices:
        wide = matrix.double()
        short = wide.shape[0] <= wide.shape[1]
        values, vectors = torch.linalg.eigh(wide @ wide.T if short else wide.T @ wide)
        squares.append(values.clamp(min=0))
        strongest = vectors.flip(1)[:, :directions]
        bases.append(torch.linalg.qr(strongest if short else wide @ strongest)[0].float())
    return torch.stack(squares).cpu().numpy(), torch.stack(bases)


def spectra(squares: np.ndarray) -> dict[str, np.ndarray]:
    """How many directions matrices use, (expert,), from their squared singular values s^2 (expert, value).

    effective_rank: exp of the entropy of s^2 / sum s^2; participation_ratio: (sum s^2)^2 / sum s^4.
    """
    share = squares / squares.sum(axis=1, keepdims=True)
    return {
        "effective_rank": np.exp(scipy.special.entr(share).sum(axis=1)),
        "participation_ratio": 1 / np.square(share).sum(axis=1),
    }


@torch.inference_mode()
def overlaps(bases: torch.Tensor) -> dict[str, np.ndarray]:
    """What the spaces of experts have in common, from orthonormal bases Q (expert, hidden, direction).

    subspace_overlap (expert, other) is ||Q_i^T Q_j||^2 / directions, on average directions / hidden for random spaces;
    principal_angle (direction,) are the angles between the two spaces in degrees, smallest first, mean over pairs.
    """
    experts, _, kept = bases.shape
    overlap = np.eye(experts)
    angles, number = np.zeros(kept), 0
    for one in range(experts - 1):
        values = torch.linalg.svdvals(bases[one].T @ bases[one + 1 :]).double().clamp(max=1)
        overlap[one, one + 1 :] = overlap[one + 1 :, one] = values.square().mean(dim=1).cpu().numpy()
        angles += torch.rad2deg(values.arccos()).sum(dim=0).cpu().numpy()
        number += len(values)
    return {"subspace_overlap": overlap, "principal_angle": angles / max(number, 1)}


@torch.inference_mode()
def router_overlap(bases: torch.Tensor, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """How much of the space of each expert lies in that of a router's rows (row, hidden); NaN without rows.

    With orthonormal bases Q (hidden, min(row, hidden)) of the rows' space and B (hidden, direction) of an expert's, of
    `bases` (expert, hidden, direction), not more than rows: the share ||Q^T B||^2 / directions (expert,), on average
    min(row, hidden) / hidden for random spaces, and the angles between both, (expert, direction) in degrees, smallest
    first.
    """
    experts, _, kept = bases.shape
    if rows is None:
        return np.full(experts, np.nan), np.full((experts, kept), np.nan)
    basis = torch.linalg.qr(torch.from_numpy(rows.T).to(bases.device).double())[0].float()
    values = torch.linalg.svdvals(basis.T @ bases).double().clamp(max=1)
    return values.square().mean(dim=1).cpu().numpy(), torch.rad2deg(values.arccos()).cpu().numpy()


@torch.inference_mode()
def alignment(matrices: ExpertMatrices, rows: np.ndarray) -> np.ndarray:
    """How strongly each expert reads the direction of each router row: (expert, router) float64.

    ||W_e r|| / (||W_e|| / sqrt(hidden)) with W_e the rows of gate and up, r a router row of length 1: 1 on average over
    directions. `rows` is (expert, hidden).
    """
    unit = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).to(matrices.gate.device).float()
    found = []
    for gate, up in zip(matrices.gate, matrices.up, strict=True):
        weight = torch.cat([gate, up]).float()
        found.append((weight @ unit.T).norm(dim=0) / (weight.norm() / np.sqrt(rows.shape[1])))
    return torch.stack(found).double().cpu().numpy()
