"""The role of every linear-like module of a causal language model, by rules and not by a list of names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

#: Words in a class name or a path that determine a role. Attention first: `BloomAttention` owns `dense`.
_WORDS = (
    ("attention", re.compile(r"attention|attn", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|ffn|feedforward|feed_forward|expert|moe", re.IGNORECASE)),
)
_LAYER = re.compile(r"\.\d+(\.|$)")
#: Classes of a whole layer or part of one: their names do not describe a single linear in it.
_CONTAINER = re.compile(r"(Layer|Block)$")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
_ROUTER_CLASS = re.compile(r"Router$")
#: Gates can control other things than experts, so the number of outputs is checked too.
_GATE_CLASS = re.compile(r"(?<!Forget)Gat(e|ing)$")
#: Suffixes that follow a model's own name in its class name.
_HEAD = re.compile(r"(For[A-Z]\w+|LMHeadModel|Model)$")


def expert_parameters(module: nn.Module) -> list[str]:
    """Return the names of the 3-D weights [experts, …] that an `*Experts` class of transformers 5 owns
    directly."""
    if not type(module).__name__.endswith("Experts"):
        return []
    return [name for name, value in module.named_parameters(recurse=False) if value.dim() == 3]


def weight_parameters(module: nn.Module) -> list[str]:
    """Return the names of the weights of a linear-like module that enter its linear products."""
    return expert_parameters(module) or ["weight"]


def owned_weight(module: nn.Module, key: str = "weight") -> nn.Parameter:
    """Return a weight of a linear-like module as its model has it: of a lean conversion the attribute is the
    quantized one, made at each read."""
    return dict(module.named_parameters(recurse=False))[key]


def reduction_axis(module: nn.Module) -> int:
    """Return the axis of the weights along which the products of a linear-like module sum: -1 for [..., out,
    in], -2 where the weight is stored [..., in, out] (`Conv1D`, and experts that transformers calls
    transposed).

    Raises ValueError for experts that do not declare their layout: those outside the experts interface of
    transformers, such as Llama 4's (transposed) and JetMoe's (not).
    """
    if not expert_parameters(module):
        return -2 if isinstance(module, Conv1D) else -1
    if not hasattr(module, "is_transposed"):
        raise ValueError(
            f"{type(module).__name__} does not tell how it stores its experts, as [experts, out, in] or as "
            f"[experts, in, out]; allowed are experts with an attribute is_transposed, which "
            f"transformers' use_experts_implementation sets: set it, or leave the module's role out"
        )
    return -2 if module.is_transposed else -1


def classify(model: nn.Module) -> dict[str, str]:
    """Return the role of every linear-like module by its qualified name: `mlp`, `attention`, `router`,
    `lm_head` or `other`, where no rule applies.

    Linear-like are `nn.Linear` and its subclasses, transformers' `Conv1D`, experts stored as 3-D parameters
    (one module, however many experts), and routers that hold a 2-D weight directly.
    """
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    modules = dict(model.named_modules())
    stem = _HEAD.sub("", type(model).__name__)
    # `Lfm2MoeShortConv` is no mixture of experts: the model's own name says nothing about its parts.
    classes = {name: type(module).__name__.removeprefix(stem) for name, module in modules.items()}
    config = getattr(model, "config", None)
    # A router scores every expert, or one shared expert.
    router_widths = frozenset({1, *(getattr(config, key, 1) for key in _EXPERT_COUNTS)})
    return {
        name: "lm_head" if module is output else _role(name, module, classes, router_widths)
        for name, module in modules.items()
        if _is_linear_like(module, classes[name])
    }


def _is_linear_like(module: nn.Module, class_name: str) -> bool:
    if isinstance(module, (nn.Linear, Conv1D)) or expert_parameters(module):
        return True
    if not (_ROUTER_CLASS.search(class_name) or _GATE_CLASS.search(class_name)):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2


def _role(name: str, module: nn.Module, classes: dict[str, str], router_widths: frozenset[int]) -> str:
    layer = _LAYER.search(f".{name}")
    if layer is None:
        return "other"
    experts = bool(expert_parameters(module))
    leaf = name.rpartition(".")[2]
    scores_experts = not experts and _outputs(module) in router_widths
    if scores_experts and leaf.split("_")[-1] in ("gate", "router"):
        return "router"
    for owner in (name, *_ancestors_in_the_layer(name, f".{name}"[1 : layer.end()].rstrip("."))):
        class_name = classes[owner]
        if _ROUTER_CLASS.search(class_name) or (scores_experts and _GATE_CLASS.search(class_name)):
            return "router"
        if owner != name and not _CONTAINER.search(class_name):
            for role, words in _WORDS:
                if words.search(class_name):
                    return role
    inside = f".{name}"[layer.end() :]
    for role, words in _WORDS:
        if words.search(inside):
            return role
    return "mlp" if experts or leaf in ("fc1", "fc2") else "other"


def _outputs(module: nn.Module) -> int:
    """Return the number of outputs of a linear-like module other than experts."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.nf if isinstance(module, Conv1D) else owned_weight(module).shape[0]


def _ancestors_in_the_layer(name: str, layer: str) -> Iterator[str]:
    """Yield the names of a module's ancestors up to its layer, nearest first."""
    owner = name.rpartition(".")[0]
    while len(owner) >= len(layer):
        yield owner
        owner = owner.rpartition(".")[0]
