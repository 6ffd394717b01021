import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrix_products import multiplied
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaForCausalLM, PreTrainedModel

from mxcheck.kernels.api import fake_quantize
from mxcheck.kernels.digest import MOST_GROUPS, Digest, digest
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.probe import digests, probe
from mxcheck.models.conversion.product_hooks import storage
from mxcheck.models.recipes.recipe import Operand, Recipe, recipe
from mxcheck.models.zoo.load import LoadedModel
from mxcheck.run.default_gate import WHOLE_LADDER

Digests = dict[str, dict[str, Digest]]
Convert = Callable[[PreTrainedModel, Recipe], Conversion]
ReferenceModel = Callable[[str], LoadedModel]

every_model = pytest.mark.parametrize("name", WHOLE_LADDER)

PRECISIONS = ("fp8_e4m3", "fp4_e2m1")
#: Every library that multiplies, brought down to what the oldest machines have.
OLD_MACHINE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
}
CHILD = """
import json, sys, torch
from mxcheck.models.conversion.convert import convert
from mxcheck.models.zoo.load import load
from mxcheck.models.conversion.probe import digests
from mxcheck.models.recipes.recipe import recipe
def plain(found):
    lists = lambda kinds: {kind: [one.rows, *one.groups] for kind, one in kinds.items()}
    return {name: lists(kinds) for name, kinds in found.items()}
found = {"capability": torch.backends.cpu.get_cpu_capability()}
for name in json.loads(sys.argv[1]):
    model = load(name).model
    for precision in json.loads(sys.argv[2]):
        conversion = convert(model, recipe(precision, tier="B"))
        found[f"{name}-{precision}"] = plain(digests(conversion))
        conversion.undo()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def on_an_old_machine() -> dict[str, Any]:
    """Digests by `<model>-<precision>`, made in a child process with the plainest instruction set."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(WHOLE_LADDER), json.dumps(PRECISIONS)],
        env={**os.environ, **OLD_MACHINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def tiny(tiny_llama: LlamaForCausalLM, converted: Convert) -> Conversion:
    return converted(tiny_llama, recipe("mxfp4_e2m1", tier="B"))


def plain(found: Digests) -> dict[str, dict[str, list[Any]]]:
    """As the child process prints them."""
    return {
        name: {kind: [one.rows, *one.groups] for kind, one in kinds.items()} for name, kinds in found.items()
    }


def changed(before: Digests, after: Digests, kind: str) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name][kind] != after[name][kind]}


def changed_weights(before: Digests, after: Digests) -> set[str]:
    return changed(before, after, "codes") | changed(before, after, "scales")


def test_the_probe_is_the_same_everywhere_and_for_ever() -> None:
    # Baselines hold digests of it: another generator or another numpy may not change one bit unseen.
    digest = hashlib.sha256(probe(32, 128).numpy().tobytes()).hexdigest()

    assert digest == "53f3324f883d6036e5953969c48f18839c3ece7a0f361ee0d738d3fdc25e6ada"


def test_the_probe_has_ties_zeros_both_signs_and_sixteen_octaves() -> None:
    x = probe(32, 344)

    assert x.dtype == torch.float32
    assert x.shape == (32, 344)
    assert torch.equal(x, x.bfloat16().float())  # significands of 8 bits
    assert (x == 0).any()
    assert (x < 0).any()
    octaves = torch.frexp(x[x != 0]).exponent.unique()
    assert octaves.min() <= -15
    assert octaves.max() == 0
    # A value half-way between two codes of its block is a tie: rounding must be told how to break it.
    up, down = fake_quantize(x * (1 + 2**-20), "fp8_e4m3"), fake_quantize(x * (1 - 2**-20), "fp8_e4m3")
    assert (up != down).float().mean() > 0.01


@every_model
@pytest.mark.parametrize("precision", PRECISIONS)
def test_digests_are_deterministic_complete_and_differ(
    name: str, precision: str, reference_model: ReferenceModel, converted: Convert
) -> None:
    model = reference_model(name).model
    conversion = converted(model, recipe(precision, tier="B"))
    first = digests(conversion)
    again = digests(conversion)
    conversion.undo()

    assert first == again == digests(converted(model, recipe(precision, tier="B")))
    assert first.keys() == conversion.replaced.keys()
    assert all(entry.keys() == {"codes", "scales", "operands"} for entry in first.values())
    # no two modules of a trained model are equal, nor are two row groups of their weights' codes
    codes = [group for entry in first.values() for group in entry["codes"].groups]
    assert len(set(codes)) == len(codes)


@every_model
@pytest.mark.parametrize("precision", PRECISIONS)
def test_digests_do_not_depend_on_how_the_machine_multiplies(
    name: str,
    precision: str,
    reference_model: ReferenceModel,
    converted: Convert,
    on_an_old_machine: dict[str, Any],
) -> None:
    if torch.backends.cpu.get_cpu_capability() == on_an_old_machine["capability"]:
        pytest.skip("this process has the plainest instruction set already: nothing to compare with")
    conversion = converted(reference_model(name).model, recipe(precision, tier="B"))

    assert on_an_old_machine["capability"] == "DEFAULT"
    assert plain(digests(conversion)) == on_an_old_machine[f"{name}-{precision}"]


class Activations(TorchFunctionMode):
    """Notes the activation operand of each F.linear."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is nn.functional.linear:
            self.seen.append(args[0])
        return func(*args, **(kwargs or {}))


@every_model
def test_every_product_reads_the_probe_and_none_the_result_of_another(
    name: str, reference_model: ReferenceModel, converted: Convert
) -> None:
    # The test above may see no difference by luck, for few roundings flip a code; this one leaves no room.
    conversion = converted(reference_model(name).model, recipe("mxfp8_e4m3", tier="B"))
    experts = sum(".experts" in module for module in conversion.replaced)
    with Activations() as activations:
        digests(conversion)

    # an experts module makes two products for each of its four experts
    assert len(activations.seen) == len(conversion.replaced) + 7 * experts
    for x in activations.seen:
        assert torch.equal(x, fake_quantize(probe(*x.shape), "fp8_e4m3"))


def test_digests_leave_the_casts_and_the_model_as_they_were(tiny: Conversion) -> None:
    ids = torch.arange(32).reshape(2, 16)
    with torch.no_grad():
        before = tiny.model(input_ids=ids, use_cache=False).logits
        casts = {name: module.cast for name, module in tiny.modules.items()}
        digests(tiny)

        assert all(module.cast is casts[name] for name, module in tiny.modules.items())
        assert torch.equal(tiny.model(input_ids=ids, use_cache=False).logits, before)


def test_one_changed_weight_changes_its_modules_digests_alone(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    conversion = converted(tiny_llama, recipe("mxfp4_e2m1", tier="B"))
    before = digests(conversion)
    conversion.undo()
    weight = tiny_llama.model.layers[1].mlp.down_proj.weight
    weight.view(-1)[weight.abs().argmax()] *= -1  # the sign bit, of an element that is no zero when cast
    after = digests(converted(tiny_llama, recipe("mxfp4_e2m1", tier="B")))

    name = "model.layers.1.mlp.down_proj"
    assert changed(before, after, "codes") == {name}
    assert changed(before, after, "scales") == set()  # a sign is of no block's scale
    assert changed(before, after, "operands") == {name}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_model_stages_have_a_digest_a_parameter_that_every_bit_moves(
    precision: str, tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    conversion = converted(tiny_llama, recipe(precision))
    before = digests(conversion)
    tiny_llama.model.norm.weight.view(torch.uint8)[0] ^= 1
    after = digests(conversion)

    assert before.keys() == dict(tiny_llama.named_parameters()).keys()
    assert changed(before, after, "codes") == {"model.norm.weight"}


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"])
@pytest.mark.parametrize(
    "wrong_cast",
    [
        pytest.param(lambda x: x, id="no-cast"),
        pytest.param(lambda x: fake_quantize(x, "fp4_e2m1", axis=0), id="wrong-axis"),
        pytest.param(lambda x: fake_quantize(x, "fp4_e2m1", block_size=16), id="wrong-block-size"),
        pytest.param(lambda x: fake_quantize(x * (1 + 2**-20), "fp4_e2m1"), id="ties-away"),
        pytest.param(lambda x: fake_quantize(fake_quantize(x, "fp8_e4m3"), "fp4_e2m1"), id="cast-twice"),
    ],
)
def test_a_wrong_activation_cast_in_one_module_is_seen_there_alone(
    name: str, wrong_cast: Callable[[torch.Tensor], torch.Tensor], tiny: Conversion
) -> None:
    before = digests(tiny)
    tiny.modules[name].cast = wrong_cast
    after = digests(tiny)

    assert changed(before, after, "operands") == {name}
    assert changed_weights(before, after) == set()


def test_a_forward_that_forgets_the_cast_is_seen(tiny: Conversion) -> None:
    before = digests(tiny)
    name = "model.layers.0.mlp.gate_proj"
    tiny.modules[name].module.__dict__["forward"] = lambda x: nn.functional.linear(
        x, tiny.modules[name].module.weight
    )
    after = digests(tiny)

    assert changed(before, after, "operands") == {name}


def test_weights_quantized_along_the_wrong_axis_are_seen(
    tiny_llama: LlamaForCausalLM, converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = converted(tiny_llama, recipe("mxfp4_e2m1", tier="B"))
    before = digests(conversion)
    conversion.undo()
    spec = Operand.spec
    monkeypatch.setattr(Operand, "spec", lambda self, *, axis: spec(self, axis=axis + 1))  # -1 -> 0
    after = digests(converted(tiny_llama, recipe("mxfp4_e2m1", tier="B")))

    assert changed_weights(before, after) == set(before)
    assert changed(before, after, "operands") == set(before)


@pytest.mark.parametrize("expert", range(4))
@pytest.mark.parametrize("parameter", ["gate_up_proj", "down_proj"])
def test_every_expert_is_probed(
    parameter: str, expert: int, reference_model: ReferenceModel, converted: Convert
) -> None:
    name = "model.layers.1.mlp.experts"
    conversion = converted(reference_model("ref-moe").model, recipe("mxfp8_e4m3", tier="A"))
    before = digests(conversion)
    # in the converted model: the quantized weights, which go when it is undone
    multiplied(conversion.modules[name].module)[parameter][expert, 3, 5] += 1

    assert changed(before, digests(conversion), "operands") == {name}


class Invisible(nn.Linear):
    """A linear layer that multiplies by means that no mode recognizes as a product."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return (input.unsqueeze(-2) * self.weight).sum(-1)


def test_a_module_without_a_visible_product_is_an_error(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    tiny_llama.model.layers[1].mlp.down_proj = Invisible(80, 64, bias=False).requires_grad_(False)
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A"))

    with pytest.raises(
        ValueError,
        match=r"^model\.layers\.1\.mlp\.down_proj \(Invisible\) makes no product .* \(linear, .*bmm\)",
    ):
        digests(conversion)


@every_model
def test_each_weight_is_digested_once(
    name: str, reference_model: ReferenceModel, converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = converted(reference_model(name).model, recipe("mxfp8_e4m3", tier="B"))
    weights = {
        storage(parameter): (f"{module}.{key}", parameter.numel())
        for module in conversion.replaced
        for key, parameter in multiplied(conversion.modules[module].module).items()
    }
    seen: Counter[str] = Counter()

    def counted(*tensors: torch.Tensor, most_groups: int = MOST_GROUPS) -> Digest:
        for tensor in tensors:
            if storage(tensor) in weights:
                seen[weights[storage(tensor)][0]] += tensor.numel()
        return digest(*tensors, most_groups=most_groups)

    monkeypatch.setattr("mxcheck.models.conversion.probe.digest", counted)
    digests(conversion)

    assert seen == dict(weights.values())


@pytest.mark.parametrize("precision", ["mxfp8_e4m3", "nvfp4"])
def test_no_storage_is_hashed_twice_from_the_conversion_on(
    precision: str,
    reference_model: ReferenceModel,
    converted: Convert,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Codes and scales as they are made, values as they enter the product. (The end of a case asks again.)"""
    hashed: list[torch.Tensor] = []  # all of them live on, so that no memory serves twice

    def noted(*tensors: torch.Tensor, most_groups: int = MOST_GROUPS) -> Digest:
        hashed.extend(tensors)
        return digest(*tensors, most_groups=most_groups)

    monkeypatch.setattr("mxcheck.models.conversion.probe.digest", noted)
    monkeypatch.setattr("mxcheck.models.conversion.casts.digest", noted)
    conversion = converted(reference_model("ref-llama").model, recipe(precision, tier="B"))
    of_codes = sum(one.dtype == torch.uint8 for one in hashed)
    assert of_codes >= 2 * len(conversion.modules), "codes and scales of each"
    digests(conversion)

    places = Counter((one.data_ptr(), one.nbytes) for one in hashed)
    assert {count for (_, size), count in places.items() if size > 2**10} == {1}
    digests(conversion)
    assert max(Counter((one.data_ptr(), one.nbytes) for one in hashed).values()) == 2, "so it can be seen"


def test_an_error_of_the_digests_thread_is_not_lost(
    tiny: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_operand: torch.Tensor) -> str:
        raise MemoryError("no room for words")

    monkeypatch.setattr("mxcheck.models.conversion.probe.whole_digest", fails)
    with pytest.raises(MemoryError, match="no room for words"):
        digests(tiny, see=lambda *_: "known")  # activations are not asked for: only the thread fails
