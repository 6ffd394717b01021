import subprocess
import sys
from pathlib import Path

import pytest

from mxcheck.evaluation.corpus_names import CORPORA, FileCorpus, HubCorpus, corpus_choice


@pytest.fixture
def root(tmp_path):
    for name in ("val.jsonl", "val.jsonl.zst", "notes.txt", "table.parquet", "two words.txt", "data.csv"):
        (tmp_path / name).write_text("text")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["self"], "self"),
        (["prose"], "prose"),
        (["pile"], "pile"),
        (["pile", "wikitext"], "pile-or-wikitext"),
        (["pile", "wikitext", "prose"], "pile-or-wikitext-or-prose"),
        (["notes.txt"], "notes.txt"),
        (["./val.jsonl.zst"], "val.jsonl.zst"),
        (["wikitext", "table.parquet"], "wikitext-or-table.parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_the_label_names_the_corpora_in_order(root, names, label):
    choice = corpus_choice(names, root)
    assert choice.label == label
    assert len(choice.corpora) == len(names)
    assert choice.is_self == (names == ["self"])


def test_a_path_starts_at_the_root_and_finds_its_loader(root):
    builders = {
        name: corpus_choice([name], root).corpora[0]
        for name in ("notes.txt", "val.jsonl", "val.jsonl.zst", "table.parquet")
    }
    assert all(isinstance(corpus, FileCorpus) for corpus in builders.values())
    assert [corpus.builder for corpus in builders.values()] == ["text", "json", "json", "parquet"]
    assert [corpus.path for corpus in builders.values()] == [root.resolve() / name for name in builders]
    assert corpus_choice([str(root / "notes.txt")], Path("/nowhere")) == corpus_choice(["notes.txt"], root)


def test_the_named_corpora_say_which_split_they_are():
    splits = {
        corpus.name: (corpus.dataset, corpus.configuration, corpus.split)
        for corpus in CORPORA.values()
        if isinstance(corpus, HubCorpus)
    }
    assert splits == {
        "pile": ("monology/pile-uncopyrighted", None, "validation"),
        "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
    }
    assert isinstance(CORPORA["prose"], FileCorpus)
    assert CORPORA["prose"].path.is_file()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no corpus named; allowed: self, pile, wikitext, prose, a path to a file \(\.txt, \.jsonl, "),
        (["wikitex"], r"unknown corpus 'wikitex'; allowed: self, .*; did you mean 'wikitext'\?"),
        ([""], "unknown corpus ''; allowed: self, "),
        (["absent.txt"], r"'absent\.txt' does not exist; relative paths start at .* go by their names"),
        (["./absent.jsonl"], r"'\./absent\.jsonl' does not exist"),
        (["data.csv"], r"'data\.csv' has no known suffix; allowed: \.txt, \.jsonl, \.jsonl\.zst, \.parquet"),
        (["some/folder"], "'some/folder' has no known suffix"),
        (["two words.txt"], r"'two words\.txt' names tests .* letters, digits, \. _ - only; rename it"),
        (["pile", "pile"], "'pile' is named twice"),
        (["pile", "notes.txt", "./notes.txt"], r"'\./notes\.txt' is named twice"),
        (["self", "pile"], "'self' goes with no other, got self, pile"),
        (["pile", "self"], "'self' goes with no other, got pile, self"),
        (["prose", "pile"], "'pile' would never be read: it stands in for 'prose', which can always be had"),
        (["pile", "notes.txt", "wikitext"], r"'wikitext' would never be read: .* 'notes\.txt'"),
    ],
    ids=[
        "nothing",
        "misspelt",
        "empty",
        "no-file",
        "no-file-in-folder",
        "suffix",
        "hub-id",
        "blank-in-name",
        "twice",
        "twice-by-path",
        "self-first",
        "self-last",
        "after-prose",
        "after-file",
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(root, names, message):
    with pytest.raises(ValueError, match=message) as caught:
        corpus_choice(names, root)
    assert "\n" not in str(caught.value)


def test_names_are_read_without_heavy_imports():
    code = (
        "import sys; from pathlib import Path; from mxcheck.evaluation.corpus_names import corpus_choice; "
        "print(corpus_choice(['pile', 'prose'], Path.cwd()).label, "
        "sorted({'torch', 'numpy', 'datasets', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "pile-or-prose []\n"
