import hashlib
import json
import logging
import random
import tracemalloc
import unicodedata
from pathlib import Path

import datasets
import pytest
import torch
import zstandard
from tokenizers import processors
from transformers import AutoTokenizer

from mxcheck.evaluation import json_lines
from mxcheck.evaluation.corpora import corpus_tokens
from mxcheck.evaluation.corpus_names import CORPORA, CorpusChoice, FileCorpus, corpus_choice
from mxcheck.models.zoo.known_models import model_source

NAMES = ("a.txt", "a.jsonl", "a.jsonl.zst", "a.parquet")
DOCUMENTS = [
    "One evening the scale was off.",
    "",
    "Nobody knew why \u2013 until Tuesday.\n",
    "It hummed. " * 40,
]


ROW = b'{"text": "One row of some words, and of more than sixteen tokens, that is what it is."}\n'
ROW_ZSTD = zstandard.compress(ROW)


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(model_source("ref-llama").location)


@pytest.fixture
def without_bos(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


@pytest.fixture
def write(tmp_path):
    """Write documents to a file of that name and return the choice of it."""

    def write_documents(name, documents):
        path = tmp_path / name
        if name.endswith(".txt"):
            (document,) = documents
            path.write_text(document)
        elif ".jsonl" in name:
            lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in documents).encode()
            path.write_bytes(zstandard.compress(lines) if name.endswith(".zst") else lines)
        else:
            datasets.Dataset.from_dict({"n": range(len(documents)), "text": documents}).to_parquet(path)
        return corpus_choice([name], tmp_path)

    return write_documents


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No Hub, and an empty cache."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def stream(tokenizer, documents):
    return tokenizer("\n\n".join(documents), add_special_tokens=False)["input_ids"]


def prose():
    corpus = CORPORA["prose"]
    assert isinstance(corpus, FileCorpus)
    return corpus.path.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", ["ref-llama", "ref-neo", "ref-moe"])
def test_prose_gives_blocks_and_comes_back_whole(model):
    tokenizer = AutoTokenizer.from_pretrained(model_source(model).location)
    made = corpus_tokens(CorpusChoice(corpora=(CORPORA["prose"],)), tokenizer, length=256, sequences=1000)
    assert made.tokens.shape[1] == 256
    assert len(made.tokens) == len(stream(tokenizer, [prose()])) // 255 >= 8
    text = prose()
    assert tokenizer.decode(stream(tokenizer, [text]), clean_up_tokenization_spaces=False) == text
    cut = tokenizer.decode(made.tokens[:, 1:].flatten(), clean_up_tokenization_spaces=False)
    assert text.startswith(cut.rstrip("\ufffd"))  # the last block may end inside a character


def test_prose_exercises_what_tokenizers_stumble_on():
    text = prose()
    scripts = {unicodedata.name(character).split()[0] for character in text if character.isalpha()}
    assert scripts >= {"LATIN", "GREEK", "CYRILLIC", "CJK", "HIRAGANA", "ARABIC", "HEBREW"}
    for sample in (
        "\u200d",
        "\ufe0f",
        "cafe\u0301",
        "caf\u00e9",
        "\t",
        "     ",
        "\n\n    def ",
        "10\u207b\u2076",
    ):
        assert sample in text
    assert max(map(len, text.split())) > 35
    assert 4000 <= len(text) <= 6000


@pytest.mark.parametrize("length", [2, 7, 64])
def test_blocks_are_the_stream_with_a_bos_before_each(tokenizer, write, length):
    made = corpus_tokens(write("a.jsonl", DOCUMENTS), tokenizer, length=length, sequences=1000)
    ids = stream(tokenizer, DOCUMENTS)
    assert made.tokens.dtype == torch.int64
    assert made.tokens.shape == (len(ids) // (length - 1), length)
    assert set(made.tokens[:, 0].tolist()) == {tokenizer.bos_token_id}
    text = made.tokens[:, 1:].flatten().tolist()
    assert text == ids[: len(text)]
    assert made.facts["bos_token_id"] == tokenizer.bos_token_id
    assert made.facts["block_length"] == length


@pytest.mark.parametrize("length", [2, 7, 64])
def test_a_tokenizer_that_adds_no_bos_gives_the_stream_alone(without_bos, write, length):
    made = corpus_tokens(write("a.jsonl", DOCUMENTS), without_bos, length=length, sequences=1000)
    ids = stream(without_bos, DOCUMENTS)
    assert made.tokens.shape == (len(ids) // length, length)
    text = made.tokens.flatten().tolist()
    assert text == ids[: len(text)]
    assert made.facts["bos_token_id"] is None


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_other_formats_give_the_same_tokens_and_fingerprint(tokenizer, write, name):
    expected = hashlib.sha256()
    for document in DOCUMENTS:
        expected.update(f"{len(document.encode())}:".encode() + document.encode())
    made = corpus_tokens(write(name, DOCUMENTS), tokenizer, length=8, sequences=1000)
    assert made.tokens[:, 1:].flatten().tolist() == stream(tokenizer, DOCUMENTS)[: made.tokens[:, 1:].numel()]
    assert made.fingerprints == {"documents": expected.hexdigest()}
    assert made.facts["documents"] == len(DOCUMENTS)


def test_a_text_file_is_one_document_with_its_newlines(tokenizer, write):
    text = "first line\n\n\n  second paragraph\tends\n"
    results = [corpus_tokens(write(name, [text]), tokenizer, length=6, sequences=9) for name in NAMES]
    assert all(torch.equal(made.tokens, results[0].tokens) for made in results)
    assert len({made.fingerprints["documents"] for made in results}) == 1
    assert [made.facts["file"] for made in results] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_document_is_read_to_its_end(tokenizer, write, name):
    document = " ".join(f"Sentence {number} of a long document." for number in range(10_000))
    assert len(document) > 300_000  # no buffer of a reader is as long
    ids = stream(tokenizer, [document])
    made = corpus_tokens(write(name, [document]), tokenizer, length=256, sequences=10**6)
    assert made.tokens[:, 1:].flatten().tolist() == ids[: len(ids) // 255 * 255]
    assert (
        made.fingerprints["documents"] == hashlib.sha256(f"{len(document)}:{document}".encode()).hexdigest()
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.zst"])
def test_a_byte_order_mark_is_no_text(tokenizer, write, tmp_path, name):
    plain = corpus_tokens(write(name, ["word " * 50]), tokenizer, length=6, sequences=4)
    content = (tmp_path / name).read_bytes()
    marked = "\ufeff".encode() + (zstandard.decompress(content) if name.endswith(".zst") else content)
    (tmp_path / name).write_bytes(zstandard.compress(marked) if name.endswith(".zst") else marked)
    again = corpus_tokens(corpus_choice([name], tmp_path), tokenizer, length=6, sequences=4)
    assert torch.equal(again.tokens, plain.tokens)
    assert again.fingerprints == plain.fingerprints


def test_files_that_were_joined_with_their_marks_are_read(tokenizer, tmp_path):
    (tmp_path / "two.jsonl.zst").write_bytes(zstandard.compress("\ufeff".encode() + ROW) * 2)
    made = corpus_tokens(corpus_choice(["two.jsonl.zst"], tmp_path), tokenizer, length=8, sequences=99)
    assert made.facts["documents"] == 2
    assert (
        made.tokens[:, 1:].flatten().tolist()
        == stream(tokenizer, [json.loads(ROW)["text"]] * 2)[: made.tokens[:, 1:].numel()]
    )


@pytest.mark.parametrize("byte", [b"a", b"\n", b" "], ids=["line", "blank-lines", "blank"])
def test_what_swells_when_decompressed_is_refused_within_a_bound(tokenizer, tmp_path, byte):
    # 16 GiB in 512 KiB: reading it all would take minutes, holding it more memory than there is
    frame = zstandard.compress(byte * 2**27)
    bomb = tmp_path / "bomb.jsonl.zst"
    bomb.write_bytes(ROW_ZSTD + frame * 128)
    assert bomb.stat().st_size < 2**21
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"bomb.jsonl.zst: a line, .* longer than 16,777,216 bytes"
        ) as caught:
            corpus_tokens(corpus_choice([bomb.name], tmp_path), tokenizer, length=16, sequences=9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert "split it, or give the text as a .txt file" in str(caught.value)
    assert peak < 2**27


def test_a_document_as_long_as_is_allowed_is_read(tmp_path):
    path = tmp_path / "long.jsonl"
    text = "a" * (json_lines.DOCUMENT_BYTES - len('{"text":""}'))
    path.write_text(f'{{"text":"{text}"}}\n')
    assert list(json_lines.json_lines(path)) == [text]
    path.write_text(f'{{"text":"{text}a"}}\n')
    with pytest.raises(ValueError, match="longer than 16,777,216 bytes"):
        list(json_lines.json_lines(path))


def test_facts_are_plain_json_and_say_how_blocks_were_made(tokenizer, write):
    made = corpus_tokens(write("a.txt", ["word " * 50]), tokenizer, length=6, sequences=2)
    assert made.tokens.shape == (2, 6)  # of one document that has more
    assert json.loads(json.dumps(made.facts)) == {
        "asked": ["a.txt"],
        "used": "a.txt",
        "file": "a.txt",
        "documents": 1,
        "joined_by": "\n\n",
        "block_length": 6,
        "bos_token_id": tokenizer.bos_token_id,
    }


def test_the_fingerprint_is_of_the_documents_alone(tokenizer, write):
    def digest(name, documents):
        return corpus_tokens(write(name, documents), tokenizer, length=8, sequences=1000).fingerprints

    same = digest("a.jsonl", DOCUMENTS)
    assert digest("copy.jsonl", DOCUMENTS) == same
    assert digest("changed.jsonl", [DOCUMENTS[0].replace("off", "odd"), *DOCUMENTS[1:]]) != same
    # joined, the next two are the same text
    joined = digest("joined.jsonl", ["one\n\ntwo " + "and so on " * 9])
    assert digest("split.jsonl", ["one", "two " + "and so on " * 9]) != joined


def test_only_the_documents_that_are_needed_are_read(tokenizer, write):
    documents = [f"Document {number} of a long row of documents." for number in range(200)]
    few = corpus_tokens(write("a.jsonl", documents), tokenizer, length=16, sequences=3)
    assert few.tokens.shape == (3, 16)
    read = few.facts["documents"]
    assert len(stream(tokenizer, documents[: read - 2])) < 3 * 15 <= len(stream(tokenizer, documents[:read]))
    assert (
        few.fingerprints
        == corpus_tokens(write("b.jsonl", documents[:read]), tokenizer, length=16, sequences=3).fingerprints
    )
    everything = corpus_tokens(write("a.jsonl", documents), tokenizer, length=16, sequences=1000)
    assert everything.facts["documents"] == 200
    assert torch.equal(everything.tokens[:3], few.tokens)


def test_more_is_read_where_joined_documents_have_fewer_tokens(tokenizer, write):
    # counted one by one, an empty document is one "\n\n"; joined, a row of them is whitespace that merges
    documents = [""] * 50 + ["word " * 9] * 50
    made = corpus_tokens(write("a.jsonl", documents), tokenizer, length=16, sequences=4)
    counts = [len(stream(tokenizer, [text + "\n\n"])) for text in documents]
    first = next(number for number in range(1, 101) if sum(counts[:number]) >= 60)
    assert len(stream(tokenizer, documents[:first])) < 60  # what one by one seemed enough
    joined = stream(tokenizer, documents[: made.facts["documents"]])
    assert made.tokens.shape == (4, 16)
    assert made.tokens[:, 1:].flatten().tolist() == joined[:60]


def test_a_text_beyond_the_models_positions_raises_no_warning(tokenizer, write, caplog, monkeypatch):
    monkeypatch.setattr(tokenizer, "model_max_length", 16)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    corpus_tokens(write("a.jsonl", DOCUMENTS), tokenizer, length=8, sequences=1000)
    assert caplog.text == ""
    tokenizer("word " * 50)  # the same text without the option does warn
    assert "longer than the specified maximum" in caplog.text


def test_a_folder_whose_name_is_a_pattern_is_read(tokenizer, tmp_path):
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    (folder / "a.txt").write_text("some words in a file")
    made = corpus_tokens(corpus_choice(["a.txt"], folder), tokenizer, length=4, sequences=1)
    assert made.facts["documents"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", b"tiny", r"'short\.txt' has \d tokens, too few for one block of 15 after its BOS; .*"),
        ("blank.jsonl", b"\n", r"'blank\.jsonl' has 0 tokens, too few .* smaller --mx-sequence-length"),
        ("empty.jsonl", b"", r"'empty\.jsonl': .*empty\.jsonl is empty"),
        ("body.jsonl", b'{"body": "x", "n": 1}\n', r"body\.jsonl: no column 'text', got body, n"),
        ("number.jsonl", b'{"text": 7}\n', r"'text' must hold strings, got int in row 1"),
        ("null.jsonl", b'{"text": "a"}\n{"text": null}\n', r"must hold strings, got NoneType in row 2"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": oops}\n', r"'broken\.jsonl': .*JSON parse error"),
        ("garbage.jsonl.zst", b"no frame of zstd", r"'garbage\.jsonl\.zst': .*not readable as Zstandard: "),
        (
            "after.jsonl.zst",
            zstandard.compress(b'{"text": "a"}') + b"no frame",
            r"'after\.jsonl\.zst': .*not readable as Zstandard: ",
        ),
        ("cut.jsonl.zst", ROW_ZSTD[:-9], r"'cut\.jsonl\.zst': .*it ends inside of a compressed frame"),
        ("nothing.jsonl.zst", zstandard.compress(b""), r"'nothing\.jsonl\.zst' has 0 tokens, too few"),
        ("zipped.jsonl", ROW_ZSTD, r"'zipped\.jsonl': .*JSON parse error in row 1: 'utf-8' codec"),
        ("list.jsonl", b"[1]\n", r"'list\.jsonl': .*row 1 must be an object .*, got list"),
        ("deep.jsonl", b'{"text":' + b"[" * 200_000, r"'deep\.jsonl': .*row 1: it is nested too deeply"),
        ("half.jsonl", b'{"text": "\\ud800"}', r"'half\.jsonl': .*row 1 is no Unicode text: surrogates"),
        ("utf16.jsonl", ROW.decode().encode("utf-16"), r"'utf16\.jsonl': .*row 1: 'utf-8' codec can't"),
        ("latin.txt", b"caf\xe9", r"'latin\.txt': .*can't decode byte 0xe9"),
        ("escape.jsonl", b'{"te\\u001b[31mxt": "x"}\n', r"no column 'text', got te\\x1b\[31mxt in row 1"),
        ("broken.parquet", b"PAR1 and no more", r"'broken\.parquet': .*Parquet magic bytes not found"),
    ],
    ids=lambda value: value.replace(".", "-") if isinstance(value, str) and " " not in value else "",
)
def test_a_file_without_documents_is_refused_in_one_line(tokenizer, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        corpus_tokens(corpus_choice([name], tmp_path), tokenizer, length=16, sequences=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_damaged_page_of_parquet_is_refused_in_one_line(tokenizer, tmp_path, place):
    """Arrow raises a plain OSError for these, of several lines."""
    path, middle = tmp_path / "a.parquet", random.Random(0).randbytes(300)
    words = [f"{index} {random.Random(index).random()}" for index in range(3000)]
    datasets.Dataset.from_dict({"text": words}).to_parquet(path)
    data = path.read_bytes()
    at = int(place * len(data))
    path.write_bytes(data[:at] + middle + data[at + len(middle) :])
    with pytest.raises(ValueError, match=r"a\.parquet") as caught:
        corpus_tokens(corpus_choice(["a.parquet"], tmp_path), tokenizer, length=16, sequences=10**6)
    assert "\n" not in str(caught.value)


def test_a_linked_file_keeps_its_own_name(tokenizer, tmp_path):
    """As in the hub's cache, where a link leads to a blob without a suffix."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123").write_bytes(zstandard.compress(ROW))
    (tmp_path / "a.jsonl.zst").symlink_to(Path("blobs", "0123"))
    made = corpus_tokens(corpus_choice(["a.jsonl.zst"], tmp_path), tokenizer, length=4, sequences=1)
    assert made.tokens.shape == (1, 4)


@pytest.mark.parametrize(("length", "sequences"), [(1, 4), (16, 0)])
def test_sizes_that_make_no_block_are_refused(tokenizer, write, length, sequences):
    with pytest.raises(ValueError, match=rf"got {sequences} of {length}; mend --mx-max-samples"):
        corpus_tokens(write("a.txt", ["words"]), tokenizer, length=length, sequences=sequences)


def test_the_models_own_tokens_are_not_text(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="'self' is sampled from the model"):
        corpus_tokens(corpus_choice(["self"], tmp_path), tokenizer, length=16, sequences=1)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("names", "remedies"),
    [
        (["pile"], ["run hf download monology/pile-uncopyrighted val.jsonl.zst --repo-type dataset"]),
        (
            ["wikitext"],
            ["load_dataset('Salesforce/wikitext', 'wikitext-2-raw-v1') in Python and copy its cache"],
        ),
        (["pile", "wikitext"], ["hf download monology", "load_dataset('Salesforce"]),
    ],
    ids=["pile", "wikitext", "both"],
)
def test_without_the_hub_the_error_says_what_to_place_where(tokenizer, tmp_path, names, remedies):
    with pytest.raises(ValueError, match=r"^out of reach: ") as caught:
        corpus_tokens(corpus_choice(names, tmp_path), tokenizer, length=16, sequences=1)
    message = str(caught.value)
    assert "\n" not in message
    for name in names:
        assert f"{name} (Couldn't reach '{CORPORA[name].dataset}' on the Hub" in message
    for remedy in remedies:
        assert remedy in message
    assert (str(tmp_path / "cache") in message) == ("wikitext" in names)


@pytest.mark.usefixtures("offline")
def test_a_listed_corpus_stands_in_for_one_out_of_reach(tokenizer, tmp_path):
    made = corpus_tokens(corpus_choice(["pile", "prose"], tmp_path), tokenizer, length=64, sequences=2)
    alone = corpus_tokens(corpus_choice(["prose"], tmp_path), tokenizer, length=64, sequences=2)
    assert torch.equal(made.tokens, alone.tokens)
    assert made.facts["asked"] == ["pile", "prose"]
    assert made.facts["used"] == "prose"
    assert list(made.facts["because"]) == ["pile"]
    assert "on the Hub" in made.facts["because"]["pile"]
    assert "because" not in alone.facts
