"""The role of every linear-like module of a causal language model, by rule and not by a list of names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

#: Words in a class name or a path that give a role. Attention first: `BloomAttention` owns `dense`.
_WORDS = (
    ("attention", re.compile(r"attention|attn", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|ffn|feedforward|feed_forward|expert|moe", re.IGNORECASE)),
)
_LAYER = re.compile(r"\.\d+(\.|$)")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
_ROUTER_CLASS = re.compile(r"(Router|Gate)$")


def expert_parameters(module: nn.Module) -> list[str]:
    """Names of the 3-D weights [experts, …] that an `*Experts` class of transformers 5 holds directly."""
    if not type(module).__name__.endswith("Experts"):
        return []
    return [name for name, value in module.named_parameters(recurse=False) if value.dim() == 3]


def _linear_like(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or expert_parameters(module):
            yield name, module


def classify(model: nn.Module) -> dict[str, str]:
    """Role of every linear-like module by its qualified name: `mlp`, `attention`, `router`, `lm_head` or
    `other`. What no rule places is `other`, never guessed.
    """
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    modules = dict(model.named_modules())
    config = getattr(model, "config", None)
    # A router scores every expert, or one shared expert.
    router_widths = frozenset({1, *(getattr(config, key, 1) for key in _EXPERT_COUNTS)})
    return {
        name: "lm_head" if module is output else _role(name, module, modules, router_widths)
        for name, module in _linear_like(model)
    }


def _role(name: str, module: nn.Module, modules: dict[str, nn.Module], router_widths: frozenset[int]) -> str:
    layer = _LAYER.search(f".{name}")
    if layer is None:
        return "other"
    if expert_parameters(module):
        return "mlp"
    leaf = name.rpartition(".")[2]
    if _ROUTER_CLASS.search(type(module).__name__) or (
        leaf.split("_")[-1] in ("gate", "router") and getattr(module, "out_features", 0) in router_widths
    ):
        return "router"
    ancestors = name.split(".")[:-1]
    while ancestors:
        owner = type(modules[".".join(ancestors)]).__name__
        if not re.search(r"Layer$|Block$|List$|Model$", owner) or "MoeBlock" in owner:
            for role, words in _WORDS:
                if words.search(owner):
                    return role
        ancestors.pop()
    inside = f".{name}"[layer.end() :]
    for role, words in _WORDS:
        if words.search(inside):
            return role
    return "mlp" if leaf in ("fc1", "fc2") else "other"
