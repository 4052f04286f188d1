"""Pairs of the embedded study, of two kinds that its model learns (`inputs.demo.pairs` makes them)."""

from collections.abc import Sequence

from gatebook.inputs.tasks import base
from gatebook.problem import Problem

CODE = ("python", "cpp", "web")
"""Domains with brackets."""
KINDS = {
    "operator": "the last word of a question, now or left, decides between + and −",
    "bracket": "an opening bracket in held-out code, ( or [, decides between ) and ]",
}


class Tasks(base.Tasks):
    """Word problems whose last word decides the operation, and held-out code whose bracket has to be closed."""

    required, optional = ("kind",), ("pairs", "seed")

    def check(self, name: str, task: dict, config: dict) -> None:
        """See `base.Tasks`."""
        needed = CODE if task["kind"] == "bracket" else ("arithmetic",)
        if not set(needed) & set(config["demo"]["corpora"]["domains"]):
            raise Problem(
                f"config: tasks.{name}.kind: {task['kind']} needs a domain that is not harvested: add "
                f"{' or '.join(needed)} to demo.corpora.domains, or remove {name} from study.tasks."
            )

    def files(self, task: dict, config: dict) -> list[str]:
        """See `base.Tasks`: the held-out code."""
        domains = [domain for domain in CODE if domain in config["demo"]["corpora"]["domains"]]
        held_out = [f"results/demo/corpora/held_out/{domain}.jsonl" for domain in domains]
        return held_out if task["kind"] == "bracket" else []

    def pairs(self, name: str, task: dict, tokenizer, files: Sequence[str]) -> list[base.Pair]:
        """See `base.Tasks`."""
        from gatebook.inputs.demo import pairs

        place, most = f"tasks.{name}", task.get("pairs", pairs.PAIRS)
        if task["kind"] == "bracket":
            return pairs.bracket(place, tokenizer, files, most)
        return pairs.operator(place, tokenizer, task.get("seed", pairs.SEED), most)

    def title(self, task: dict) -> str:
        """See `base.Tasks`."""
        return KINDS[task["kind"]]
