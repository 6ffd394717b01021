"""Corpora of the Hub, read by the real `datasets` from a local server that answers as the Hub does."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from mxcheck.evaluation.corpora import corpus_tokens
from mxcheck.evaluation.corpus_names import corpus_choice
from mxcheck.models.zoo.known_models import model_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = ["", " = Heading = \n", "", " A paragraph of a few words , 5 @.@ 2 of them numbers . \n"] * 60
CARD = """---
configs:
- config_name: wikitext-103-raw-v1
  data_files: [{split: test, path: wikitext-103-raw-v1/test-*}]
- config_name: wikitext-2-raw-v1
  data_files: [{split: test, path: wikitext-2-raw-v1/test-*}]
---
"""
TABLE = "wikitext-2-raw-v1/test-00000-of-00001.parquet"

# Prints, for each argument, the facts and the shape of the tokens, or the error; then fills caches. Waiting
# between attempts to reach a dead server is cut short.
CHILD = """
import json, os, sys, time
if os.environ.get("WITHOUT_ZSTANDARD"):
    sys.modules["zstandard"] = None  # before fsspec looks for it
from pathlib import Path
from transformers import AutoTokenizer
from mxcheck.evaluation.corpora import corpus_tokens
from mxcheck.evaluation.corpus_names import corpus_choice
from mxcheck.models.zoo.known_models import model_source
time.sleep = lambda seconds: None
tokenizer = AutoTokenizer.from_pretrained(model_source("ref-llama").location)
for names in sys.argv[1:]:
    try:
        made = corpus_tokens(corpus_choice(names.split(","), Path.cwd()), tokenizer, length=16, sequences=20)
        shape, read = list(made.tokens.shape), made.facts["documents"]
        print(json.dumps({**made.facts, "shape": shape, "documents_read": read, **made.fingerprints}))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
for folder, configuration in json.loads(os.environ.get("FILL", "{}")).items():
    import datasets
    datasets.load_dataset("Salesforce/wikitext", configuration, cache_dir=folder)
"""


def _zstd(content):
    """A frame of one uncompressed block, as Zstandard's format has it; up to 255 bytes."""
    size = len(content)
    return b"\x28\xb5\x2f\xfd\x20" + bytes([size]) + (size << 3 | 1).to_bytes(3, "little") + content


def _table():
    buffer = io.BytesIO()
    datasets.Dataset.from_dict({"text": ROWS}).to_parquet(buffer)
    return buffer.getvalue()


def _repositories():
    line = json.dumps(
        {"text": "A document of the pile, and not a short one at that. ", "meta": {"from": "x"}}
    )
    split = _zstd((line + "\n").encode() * 2)
    table = _table()
    return {
        "Salesforce/wikitext": {
            "README.md": CARD.encode(),
            TABLE: table,
            TABLE.replace("-2-", "-103-"): table,
        },
        "monology/pile-uncopyrighted": {
            "README.md": b"---\nlicense: other\n---\n",
            "val.jsonl.zst": split,
            "train/00.jsonl.zst": b"not to be read",
        },
    }


class _Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories = _repositories()

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self._describe("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and "resolve" in parts:
            self._send_file(self.repositories["/".join(parts[1:3])], "/".join(parts[5:]))
        else:
            self._send(404)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass

    def _describe(self, name, rest):
        files = self.repositories[name]
        if rest[:1] != ["tree"]:
            return self._send(
                200, json.dumps({"id": name, "sha": COMMIT, "tags": [], "siblings": []}).encode()
            )
        folder = "/".join(rest[2:])
        below = [path for path in files if not folder or path.startswith(folder + "/")]
        tails = {path: path[len(folder) + 1 if folder else 0 :] for path in below}
        folders = {
            path[: len(path) - len(tail)] + tail.split("/")[0] for path, tail in tails.items() if "/" in tail
        }
        entries = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        entries += [
            {"type": "file", "path": path, "size": len(files[path]), "oid": _etag(files[path])}
            for path, tail in tails.items()
            if "/" not in tail
        ]
        return self._send(200 if entries else 404, json.dumps(entries).encode())

    def _send_file(self, files, path):
        if path not in files:
            return self._send(404, headers={"X-Error-Code": "EntryNotFound"})
        content, status, headers = files[path], 200, {"ETag": f'"{_etag(files[path])}"'}
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            last = min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[int(first) : last + 1], 206
        return self._send(status, content, headers)

    def _send(self, status, content=b"", headers=()):
        self.send_response(status)
        fixed = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        for key, value in {**fixed, **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content):
    return hashlib.sha256(content).hexdigest()[:40]


def _child(arguments, **settings):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env={**kept, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(arguments, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The answers with the Hub at hand, and the folder of what was kept: `home` has what streaming leaves
    there, `filled` the cache of the configuration that is asked for, `other` that of another one."""
    folder = tmp_path_factory.mktemp("hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    there = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(folder / "home")}
    caches = {str(folder / "filled"): "wikitext-2-raw-v1", str(folder / "other"): "wikitext-103-raw-v1"}
    try:
        answers = _child(
            ["wikitext", "pile,wikitext"], **there, FILL=json.dumps(caches), WITHOUT_ZSTANDARD="1"
        )
        if find_spec("zstandard") is not None:
            answers |= _child(["pile"], **there)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    return answers, folder


@pytest.fixture
def from_cache(hub, monkeypatch):
    """`corpus_tokens` of the names, without the Hub, from that cache."""
    tokenizer = AutoTokenizer.from_pretrained(model_source("ref-llama").location)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def read(names, cache):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", hub[1] / cache)
        return corpus_tokens(corpus_choice(names, hub[1]), tokenizer, length=16, sequences=20)

    return read


def test_a_split_is_streamed_as_far_as_needed(hub):
    answer = hub[0]["wikitext"]
    read = ROWS[: answer.pop("documents_read")]
    assert 4 < len(read) < len(ROWS)
    expected = hashlib.sha256()
    for row in read:
        expected.update(f"{len(row)}:{row}".encode())
    assert answer == {
        "asked": ["wikitext"],
        "used": "wikitext",
        "dataset": "Salesforce/wikitext",
        "configuration": "wikitext-2-raw-v1",
        "file": None,
        "split": "test",
        "revision": COMMIT,
        "joined_by": "\n\n",
        "block_length": 16,
        "bos_token_id": 0,
        "shape": [20, 16],
        "documents": expected.hexdigest(),
    }


def test_a_missing_package_is_named_and_no_reason_to_read_something_else(hub):
    error = hub[0]["pile,wikitext"]["error"]
    assert error == (
        "corpus 'pile': monology/pile-uncopyrighted: it is compressed with zstd: zstandard is not installed: "
        "pip install 'mxcheck[models]'"
    )


def test_the_pile_is_its_validation_file(hub):
    pytest.importorskip("zstandard")
    answer = hub[0]["pile"]
    assert (answer["file"], answer["split"], answer["revision"]) == ("val.jsonl.zst", "validation", COMMIT)
    assert (answer["used"], answer["documents_read"]) == ("pile", 2)


def test_a_filled_cache_serves_without_the_hub(hub, from_cache):
    online = hub[0]["wikitext"]
    made = from_cache(["wikitext"], "filled")
    assert made.fingerprints["documents"] == online["documents"]
    assert list(made.tokens.shape) == online["shape"]
    assert made.facts["revision"] == COMMIT
    second = from_cache(["pile", "wikitext"], "filled")
    assert torch.equal(second.tokens, made.tokens)
    assert second.facts["used"] == "wikitext"
    assert list(second.facts["because"]) == ["pile"]


def test_a_cache_of_another_configuration_is_none(from_cache):
    with pytest.raises(
        ValueError, match=r"^out of reach: wikitext \(Couldn't find cache .*wikitext-103"
    ) as caught:
        from_cache(["wikitext"], "other")
    assert "\n" not in str(caught.value)


def test_a_hub_that_fell_silent_is_out_of_reach(hub):
    # its card is kept from an earlier run, so the first that fails is not the first that is asked
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(hub[1] / "home")}
    answers = _child(["wikitext", "wikitext,prose"], **dead)
    assert answers["wikitext"]["error"].startswith(
        "out of reach: wikitext ([Errno 111] Connection refused); "
    )
    assert answers["wikitext,prose"]["used"] == "prose"
    assert answers["wikitext,prose"]["because"] == {"wikitext": "[Errno 111] Connection refused"}
