"""What a head writes for an answer by itself, past all that later layers make of it."""

from collections.abc import Mapping

import torch
import transformers

from gatebook.chapters.logit_lens.lens import Lens
from gatebook.problem import Problem
from gatebook.routing.heads import Attention
from gatebook.routing.routers import find_blocks, find_norm, layers_of

PROBED = 8
"""Tokens that a model is tried with."""
NEAR = 1e-3
"""By so much of its size what a head is found to write may miss what the state grows by; of coarse dtypes `COARSE`."""
COARSE = 0.1


class Direct:
    """The last norm and the head of a model, and by how much of what a layer's attention returns the state grows.

    unknown: why that is not known, "" if it is; shares: by layer.
    """

    @torch.inference_mode()
    def __init__(self, model: transformers.PreTrainedModel, attentions: Mapping[int, Attention]):
        """Try the model, which is in evaluation mode."""
        self.attentions, self.shares, self.unknown = attentions, {}, ""
        try:
            self.lens = Lens(model)
        except Problem as problem:
            self.unknown = str(problem)
            return
        for layer in attentions:
            share = _share(model, layer, attentions[layer])
            if share is None:
                self.unknown = f"what the attention of layer {layer} returns passes a norm before it is added"
                return
            self.shares[layer] = share

    def logits(
        self, outputs: Mapping[int, torch.Tensor], last: torch.Tensor, right: torch.Tensor, wrong: torch.Tensor
    ) -> torch.Tensor:
        """What heads add to the logit of the right answer minus that of the wrong one, the last norm's scale fixed.

        Parameters
        ----------
        outputs
            Of the heads of each layer at one token of each prompt: (prompt, head, width).
        last
            The state after the last layer there: (prompt, hidden).
        right, wrong
            Token ids: (prompt,) int64.

        Returns
        -------
        torch.Tensor
            (prompt, layer, head) float32, NaN if it is `unknown` and where a layer has fewer heads.
        """
        most = max(one.heads for one in self.attentions.values())
        found = torch.full((len(last), len(self.attentions), most), torch.nan)
        if self.unknown:
            return found
        wanted = self.lens.directions(right) - self.lens.directions(wrong)
        wanted = wanted * self.lens.scale(last)[:, None]
        for index, (layer, one) in enumerate(self.attentions.items()):
            weight = one.projection.weight.float()
            back = (wanted.to(weight.device) @ weight).unflatten(-1, (one.heads, -1))
            written = (back * outputs[layer].to(back)).sum(dim=-1) * self.shares[layer]
            found[:, index, : one.heads] = written.cpu()
        return found


def _share(model: transformers.PreTrainedModel, layer: int, attention: Attention) -> float | None:
    """By how much of what the projection of a layer returns the state grows, None if it is no share.

    The state is that before the experts' norm or, where attention does not reach it, that after the layer.
    """
    base, generator = model.base_model, torch.Generator().manual_seed(layer)
    module, norm, block = layers_of(base)[layer], find_norm(base.config), find_blocks(base).get(layer)
    named = dict(module.named_modules())
    before = named.get(norm) if norm else block
    noise: dict[str, torch.Tensor] = {}

    def states(times: float) -> dict[str, torch.Tensor]:
        seen, handles = {}, []

        def add(_, given, output):
            if "noise" not in noise:
                made = torch.randn(output.shape, generator=generator).to(output)
                noise["noise"] = made * output.float().square().mean().sqrt().clamp(min=1e-3).to(output)
            return output + times * noise["noise"]

        def received(_, given, named):
            seen["before"] = (given[0] if given else named["hidden_states"]).float()

        def returned(_, given, output):
            seen["after"] = (output[0] if isinstance(output, tuple) else output).float()

        handles.append(attention.projection.register_forward_hook(add))
        handles.append(module.register_forward_hook(returned))
        if before is not None:
            handles.append(before.register_forward_pre_hook(received, with_kwargs=True))
        try:
            base(input_ids=torch.arange(1, PROBED + 1, device=model.device)[None], use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    plain, once, more = (states(times) for times in (0.0, 1.0, 4.0))
    added = noise["noise"].float()
    place = "before" if "before" in plain and not plain["before"].equal(more["before"]) else "after"
    grown = {
        times: seen[place].view(added.shape) - plain[place].view(added.shape) for times, seen in ((1, once), (4, more))
    }
    share = float((grown[4] * added).sum() / (4 * added.square().sum()))
    near = NEAR if model.dtype == torch.float32 else COARSE
    fits = all((times * share * added - each).norm() <= near * each.norm() for times, each in grown.items())
    if not fits:
        return None
    return 1.0 if abs(share - 1) <= near else share
