"""Loading by a zoo's name or a hub id: from a hub cache, offline; and what the hub's refusals become."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hub_cache
import huggingface_hub.constants
import pytest
import torch
from torch import nn

from mxcheck.models.zoo import checkpoint
from mxcheck.models.zoo import load as loader
from mxcheck.models.zoo.cards import CARDS, GIB
from mxcheck.models.zoo.known_models import ModelSource, model_source
from mxcheck.models.zoo.load import load

#: Waits until it is told to start, loads the models named, and prints what it got.
CHILD = """
import json, sys
from mxcheck.models.zoo.load import load
options = json.loads(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for name in sys.argv[2:]:
    try:
        loaded = load(name, **options)
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({
            "dtypes": sorted({str(value.dtype) for value in loaded.model.parameters()}),
            "attention": loaded.model.config._attn_implementation,
            "class": type(loaded.model).__name__,
            "weights": loaded.weights_fingerprint,
            "tokenizer": loaded.tokenizer_fingerprint,
        }))
"""


def start(environment: dict[str, str], *names: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(options), *names],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(child: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, errors = child.communicate("go\n")
    assert child.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, which this process sees too, without a hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


@pytest.mark.slow
def test_two_processes_load_zoo_models_at_once_from_a_cache_alone(home: Path) -> None:
    hub_cache.place_tiny(home, "llama-3.1-8b")
    hub_cache.place_tiny(home, "tinystories-33M")
    names = ("llama-3.1-8b", "tinystories-33M")
    children = [start(hub_cache.environment(home), *names) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        # both have imported everything: from here on they do nothing but load
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    first, second = (results(child) for child in children)

    assert first == second
    assert [result["class"] for result in first] == ["LlamaForCausalLM", "GPTNeoForCausalLM"]
    assert [result["dtypes"] for result in first] == [["torch.bfloat16"], ["torch.float32"]]
    assert [result["attention"] for result in first] == ["eager", "eager"]
    assert all(result["tokenizer"] != "no tokenizer" for result in first)


@pytest.mark.parametrize("size", ["1GB", "60KB"], ids=["one-file", "sharded"])
def test_fingerprints_are_equal_from_cache_and_directory(size: str, home: Path, tmp_path: Path) -> None:
    snapshot = hub_cache.place_tiny(home, "llama-3.1-8b", max_shard_size=size)
    assert (len(list(snapshot.glob("*.safetensors"))) > 1) == (size == "60KB")
    assert snapshot.name == CARDS["llama-3.1-8b"].revision
    folder = tmp_path / "model"
    model = hub_cache.save_tiny(folder, CARDS["llama-3.1-8b"])
    cached = load("llama-3.1-8b")
    by_id = load("meta-llama/Llama-3.1-8B")
    directory = load(str(folder), dtype="bfloat16")

    for loaded in (cached, by_id, directory):
        assert loaded.weights_fingerprint == loader.weights_fingerprint(model)
        assert loaded.tokenizer_fingerprint == cached.tokenizer_fingerprint != "no tokenizer"


@pytest.mark.parametrize(
    ("name", "dtype", "loaded_in"),
    [
        pytest.param("llama-3.1-8b", None, torch.bfloat16, id="card"),
        pytest.param("./model", None, torch.float32, id="directory"),
        pytest.param("llama-3.1-8b", "float32", torch.float32, id="card-asked"),
        pytest.param("./model", "float16", torch.float16, id="directory-asked"),
    ],
)
def test_the_dtype_is_explicit(
    name: str,
    dtype: str | None,
    loaded_in: torch.dtype,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub_cache.place_tiny(home, "llama-3.1-8b")
    stored = hub_cache.save_tiny(tmp_path / "model", CARDS["llama-3.1-8b"])
    monkeypatch.chdir(tmp_path)
    loaded = load(name, dtype=dtype)
    before = dict(stored.named_parameters())

    assert {value.dtype for value in before.values()} == {torch.bfloat16}
    for key, value in loaded.model.named_parameters():
        assert value.dtype == loaded_in
        assert torch.equal(value, before[key].to(loaded_in))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown dtype 'bf16'; allowed: float32, bfloat16, float16"):
        load("ref-llama", dtype="bf16")


def test_a_card_s_revision_is_loaded_and_no_other(home: Path, tmp_path: Path) -> None:
    card = CARDS["llama-3.1-8b"]
    hub_cache.save_tiny(tmp_path / "model", card)
    hub_cache.place(home, card.hub_id, "main", tmp_path / "model")

    with pytest.raises(ValueError, match=rf"at revision {card.revision} is not complete in the hub cache"):
        load("llama-3.1-8b")


def test_pickled_weights_alone_are_refused_and_the_command_given_converts_them(
    home: Path, tmp_path: Path
) -> None:
    hub_cache.place_tiny(home, "tinystories-33M", pickled=True)
    with pytest.raises(
        ValueError, match="at revision main has no safetensors, and pickled weights"
    ) as caught:
        load("tinystories-33M")
    assert "\n" not in str(caught.value)
    (command,) = re.findall(r"`(python -c .*)`", str(caught.value))
    subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        check=True,
        cwd=tmp_path,
        env=hub_cache.environment(home),
        capture_output=True,
    )
    assert str(caught.value).endswith("and give ./tinystories-33M")
    converted = load(str(tmp_path / "tinystories-33M"))
    before = hub_cache.save_tiny(tmp_path / "again", CARDS["tinystories-33M"])

    assert converted.weights_fingerprint == loader.weights_fingerprint(before)
    assert converted.tokenizer_fingerprint != "no tokenizer"


def test_pickled_weights_of_a_model_without_a_card_are_refused_too(home: Path, tmp_path: Path) -> None:
    hub_cache.save_tiny(tmp_path / "model", CARDS["tinystories-33M"], pickled=True)
    hub_cache.place(home, "org/mine", "main", tmp_path / "model")

    with pytest.raises(ValueError, match=r"org/mine at revision main has no safetensors.* and give \./mine$"):
        load("org/mine")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("qwen2.5-7b", ["hf download Qwen/Qwen2.5-7B --revision d149729"], id="pinned"),
        pytest.param("llama-3.1-8b", ["hf download meta-llama/Llama-3.1-8B", "`hf auth login`"], id="gated"),
        pytest.param("mpt-30b", ["hf download mosaicml/mpt-30b", "it holds no safetensors"], id="pickled"),
        pytest.param("org/mine", ["hf download org/mine --revision main"], id="no-card"),
    ],
)
def test_a_model_that_is_not_there_is_one_line_that_says_what_to_place_where(
    name: str, words: list[str], home: Path
) -> None:
    with pytest.raises(ValueError, match="is not complete in the hub cache, and the hub was") as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(f"model {name!r}: ")
    assert "\n" not in message
    for word in [*words, str(home / "hub"), "or give a local directory"]:
        assert word in message


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        pytest.param("model-00002*", "does not appear to have a file named model-00002-of-0000", id="shard"),
        pytest.param("model*", "has no safetensors in the hub cache, and the hub gave none", id="weights"),
        pytest.param("config.json", "is not complete in the hub cache", id="config"),
    ],
)
def test_an_incomplete_cache_is_an_error_that_says_so(gone: str, words: str, home: Path) -> None:
    snapshot = hub_cache.place_tiny(home, "llama-3.1-8b", max_shard_size="60KB")
    for file in snapshot.glob(gone):
        file.unlink()
    with pytest.raises(ValueError, match=words) as caught:
        load("llama-3.1-8b")
    assert "hf download meta-llama/Llama-3.1-8B" in str(caught.value)


#: How a hub refuses a model: status, error code, and what is told.
REFUSALS = {
    "llama-3.1-8b": (403, "GatedRepo", "is gated and this account has no access to it"),
    "qwen1.5-0.5B": (404, "RepoNotFound", "does not exist on the hub, or is private"),
    "phi-1_5": (404, "RevisionNotFound", "has no such revision"),
    "qwen2.5-7b": (418, "", "is not complete in the hub cache, and the hub was not reached or did not"),
}


class Refusal(BaseHTTPRequestHandler):
    """A hub on loopback that answers every request with the status and error code of its model."""

    def do_GET(self) -> None:
        (status, code), *_ = (
            refusal[:2] for name, refusal in REFUSALS.items() if CARDS[name].hub_id in self.path
        )
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET  # noqa: N815  (http.server's names)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of the hub on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_hub_s_refusals_are_one_line_each_without_credentials(hub: str, home: Path) -> None:
    environment = {
        **hub_cache.environment(home),
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_ENDPOINT": f"http://user:secret@{hub}",
        "HF_TOKEN": "hf_thisisnotatokenatall",
    }
    found = dict(zip(REFUSALS, results(start(environment, *REFUSALS)), strict=True))

    for name, (_, _, words) in REFUSALS.items():
        told, card = found[name]["error"], CARDS[name]
        assert words in told
        assert f"hf download {card.hub_id} --revision {card.revision[:7]}" in told
        assert "\n" not in told
        assert "secret" not in told
        assert "hf_thisisnotatokenatall" not in told


def test_what_a_library_says_is_repeated_without_credentials() -> None:
    said = OSError("http://user:secret@hub/x failed\nfor token hf_thisisnotatokenatall.")
    message = str(checkpoint.unloadable(model_source("org/mine"), said))

    assert "cannot be loaded: http://***hub/x failed for token *** (hub cache" in message


THEIRS = """
from transformers import LlamaConfig, LlamaForCausalLM
open({witness!r}, "w").close()
class Config(LlamaConfig):
    model_type = "of_their_own"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_code_of_the_checkpoint_runs_only_where_it_is_allowed(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    hub_cache.save_tiny(folder, CARDS["llama-3.1-8b"])
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "of_their_own"
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    witness = tmp_path / "executed"
    (folder / "theirs.py").write_text(THEIRS.format(witness=str(witness)))
    hub_cache.place(home, "org/mine", "main", folder)

    names = (str(folder), "org/mine")
    for name in names:
        with pytest.raises(ValueError, match="needs code of its own, which is not executed") as caught:
            load(name)
        assert f"--mx-trust-remote-code={name} " in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not witness.exists()

    allowed = results(start(hub_cache.environment(home), *names, trust_remote_code=True))
    assert [result["class"] for result in allowed] == ["Model", "Model"]
    assert witness.exists()


def test_a_second_load_waits_for_the_first(home: Path) -> None:
    hub_cache.place_tiny(home, "llama-3.1-8b")
    done = threading.Event()

    def second() -> None:
        load("llama-3.1-8b")
        done.set()

    thread = threading.Thread(target=second)
    with loader._LOADING:
        thread.start()
        assert not done.wait(1)  # a load takes a tenth of that
    thread.join()
    assert done.is_set()


def test_threads_get_the_dtypes_they_ask_for(home: Path) -> None:
    hub_cache.place_tiny(home, "llama-3.1-8b")
    dtypes = ["float32", "bfloat16", "float16"] * 8

    def loaded(dtype: str) -> tuple[set[torch.dtype], str]:
        result = load("llama-3.1-8b", dtype=dtype)
        return {value.dtype for value in result.model.parameters()}, result.weights_fingerprint

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(loaded, dtypes))

    assert [dtype for dtype, _ in got] == [{getattr(torch, dtype)} for dtype in dtypes]
    assert len({fingerprint for _, fingerprint in got}) == 3
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("before", [None, "0"], ids=["unset", "set"])
def test_the_conversion_service_is_off_while_a_model_is_loaded_and_no_longer(
    before: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "DISABLE_SAFETENSORS_CONVERSION"
    monkeypatch.delenv(variable, raising=False)
    if before is not None:
        monkeypatch.setenv(variable, before)
    seen = []
    original = loader._from_pretrained

    def watched(*args: Any) -> Any:
        seen.append((os.environ[variable], loader._LOADING.locked()))
        return original(*args)

    monkeypatch.setattr(loader, "_from_pretrained", watched)
    hub_cache.place_tiny(home, "llama-3.1-8b")
    load("llama-3.1-8b")
    with pytest.raises(ValueError, match="not complete"):
        load("qwen2.5-7b")

    assert seen == [("1", True)] * 2
    assert os.environ.get(variable) == before
    assert not loader._LOADING.locked()


@pytest.mark.parametrize(
    ("name", "gib", "devices"),
    [
        pytest.param("llama-3.1-8b", 80, 8, id="one-holds-it"),
        pytest.param("mixtral-8x7b", 80, 1, id="there-is-but-one"),
        pytest.param("mixtral-8x7b", 192, 8, id="one-large-one-holds-it"),
    ],
)
def test_one_device_where_one_holds_it_or_there_is_but_one(
    name: str, gib: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    assert not loader._spread(CARDS[name], "bfloat16", device_bytes=gib * GIB, devices=devices)


def test_several_devices_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    with pytest.raises(
        ValueError,
        match=r"^model 'mixtral-8x7b' needs 180 GiB in bfloat16, got devices of 80 GiB; accelerate s",
    ):
        loader._spread(CARDS["mixtral-8x7b"], "bfloat16", device_bytes=80 * GIB, devices=2)


def test_several_leased_devices_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        ValueError, match=r"^model 'ref-llama' goes over 2 devices; .* accelerate is not installed: pip"
    ):
        loader.load("ref-llama", device="cuda", devices={0: GIB, 1: GIB})


@pytest.mark.skipif(not find_spec("accelerate"), reason="accelerate is not installed")
def test_with_accelerate_a_model_is_spread() -> None:
    assert loader._spread(CARDS["mixtral-8x7b"], "bfloat16", device_bytes=80 * GIB, devices=4)


SOURCE = ModelSource(name="mine", location="org/mine", is_directory=False)


def test_tensors_left_on_meta_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, device="meta"))
    with pytest.raises(
        ValueError,
        match=r"'mine': 5 tensor\(s\) left on the meta device, first 1\.weight: nothing was loaded",
    ):
        checkpoint.check_materialised(model, SOURCE)
    checkpoint.check_materialised(model[0], SOURCE)


def test_tensors_that_accelerate_offloaded_say_how_many_devices_hold_them() -> None:
    model: Any = nn.Linear(2, 2, device="meta")
    model.hf_device_map = {"a": 0, "b": "disk"}  # as accelerate leaves it
    with pytest.raises(
        ValueError, match=r"too little memory.*; give more or larger devices \(4 of 80 GB hold"
    ):
        checkpoint.check_materialised(model, model_source("deepseek-67b"))


def test_a_load_that_leaves_a_tensor_on_meta_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loader._from_pretrained

    def leaves_the_head(*args: Any) -> Any:
        model = original(*args)
        model.lm_head.to("meta")
        return model

    monkeypatch.setattr(loader, "_from_pretrained", leaves_the_head)
    hub_cache.place_tiny(home, "llama-3.1-8b")
    with pytest.raises(ValueError, match=r"1 tensor\(s\) left on the meta device, first lm_head\.weight"):
        load("llama-3.1-8b")
