"""What is known about the routing of a model: chapters say what they need, studies what they lack."""

CAPABILITIES = {
    "documents": "which document each token is from",
    "clusters": "which documents depend on each other, such as those cut from one file",
    "text": "the text of the documents",
    "tokens": "the token ids",
    "roles": "who speaks each token of a conversation, and in which phase",
    "selections": "which experts each token selects",
    "order": "the order of a token's selected experts by weight",
    "weights": "the routing weights of the selected experts",
    "scores": "what the router's scores of all experts amount to for each token",
    "logits": "the router logits of every token",
    "sample": "the router inputs of sampled tokens",
    "model": "the model's files, from which parts of it can be run",
    "checkpoints": "several checkpoints of the model, in the order of training",
    "tasks": "pairs of prompts that differ in what decides the answer",
    "asked": "which interventions the config asks for",
    "contrast": "which pairs of datasets the config contrasts",
    "probes": "texts with labels, as study.probes selects them",
    "training": "the record of the model's training",
}
"""Capability: what is known where a model's data have it. Loads are always known: how often each expert is selected."""
