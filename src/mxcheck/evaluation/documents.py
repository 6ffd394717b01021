"""Documents of a corpus: Hub data sets are streamed by `datasets`, local files are read in place."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever HTTP client it uses

from mxcheck.evaluation.corpus_names import Corpus, FileCorpus, HubCorpus, SelfCorpus
from mxcheck.evaluation.json_lines import json_lines
from mxcheck.extras import missing, require
from mxcheck.files.printed import one_line

if TYPE_CHECKING:
    import datasets

__all__ = ["UNREACHABLE", "in_one_line", "open_documents", "remedy"]

#: Errors when the Hub does not answer and the cache lacks the set: a ConnectionError of `datasets`, or the
#: HTTP client's error if the Hub stopped answering after its first answer.
UNREACHABLE = (ConnectionError, httpx.TransportError)

#: Errors when data cannot be read in its format. Arrow's and UTF-8 errors are ValueErrors; a RuntimeError
#: means that a generator of `datasets` found nothing.
_DAMAGED = (ValueError, RuntimeError, EOFError)

#: Most characters of a library's message that are quoted.
_WORDS = 600

#: Options of the builders of `datasets`: a text file is one document, without its byte-order mark.
_SETTINGS: Mapping[str, Mapping[str, str]] = {"text": {"sample_by": "document", "encoding": "utf-8-sig"}}


def open_documents(corpus: Corpus) -> tuple[dict[str, Any], Iterator[str]]:
    """Return the source's facts for a record, in plain JSON types, and its documents in order, read one by
    one.

    The byte-order mark of a text file is not part of its document. A document of a .jsonl or .jsonl.zst has a
    bound, `mxcheck.evaluation.json_lines.DOCUMENT_BYTES`.

    Raises one of UNREACHABLE, at once or while reading, where the Hub does not answer; ValueError, in one
    line, for a file that is empty, damaged or has no column `text`, and for `self`.
    """
    match corpus:
        case HubCorpus():
            builder = _hub_builder(corpus)
            source = {
                "dataset": corpus.dataset,
                "configuration": corpus.configuration,
                "file": corpus.file,
                "split": corpus.split,
                "revision": builder.hash,  # of the Hub's repository: the commit, from the cache too
            }
            return source, _in_one_line(_documents(builder, corpus.split), corpus)
        case FileCorpus():
            if not corpus.path.stat().st_size:
                raise ValueError(f"corpus {corpus.name!r}: {corpus.path} is empty; give a file with text")
            if corpus.builder == "json":
                return {"file": corpus.path.name}, _in_one_line(json_lines(corpus.path), corpus)
            require("datasets", f"corpus {corpus.name!r}")
            import datasets

            with _uncounted():
                builder = datasets.load_dataset_builder(
                    corpus.builder,
                    # escaped: `datasets` takes a path as a pattern, and gives no document if none matches
                    data_files={"train": glob.escape(str(corpus.path))},
                    **_SETTINGS.get(corpus.builder, {}),
                )
            return {"file": corpus.path.name}, _in_one_line(_documents(builder, "train"), corpus)
        case SelfCorpus():
            raise ValueError(
                "corpus 'self' is sampled from the model (see sample_tokens), not read from text"
            )


@contextmanager
def _uncounted() -> Iterator[None]:
    """Keep `datasets` from reporting each set that is loaded, even a local file, to a server."""
    from datasets import config

    before = config.HF_UPDATE_DOWNLOAD_COUNTS
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = before


def _hub_builder(corpus: HubCorpus) -> datasets.DatasetBuilder:
    require("datasets", f"corpus {corpus.name!r}")
    import datasets

    try:
        return datasets.load_dataset_builder(
            corpus.dataset,
            corpus.configuration,
            data_files=None if corpus.file is None else {corpus.split: corpus.file},
        )
    except ValueError as error:
        # The Hub does not answer and the cache holds another configuration of the set: a plain ValueError.
        if str(error).startswith("Couldn't find cache for"):
            raise ConnectionError(str(error)) from error
        raise


def _documents(builder: datasets.DatasetBuilder, split: str) -> Iterator[str]:
    for number, row in enumerate(builder.as_streaming_dataset(split=split), 1):
        if "text" not in row:
            raise ValueError(f"no column 'text', got {', '.join(row)}; name the column of documents so")
        if not isinstance(row["text"], str):
            raise ValueError(
                f"the column 'text' must hold strings, got {type(row['text']).__name__} in row {number}"
            )
        yield row["text"]


def _in_one_line(documents: Iterator[str], corpus: HubCorpus | FileCorpus) -> Iterator[str]:
    """Yield the documents; turn what makes them unreadable into a ValueError that names corpus and place."""
    where = corpus.dataset if isinstance(corpus, HubCorpus) else corpus.path
    try:
        for number, document in enumerate(documents, 1):
            if isinstance(corpus, FileCorpus) and "\0" in document:
                raise ValueError(
                    f"document {number} has NUL characters, so it is no text, or text in UTF-16 that was "
                    f"read as UTF-8; convert it to UTF-8"
                )
            yield document
    except Exception as error:
        # Arrow raises a plain OSError for damaged pages; the system and the network raise subclasses
        damaged = isinstance(error, _DAMAGED) or type(error) is OSError
        if not damaged and type(error).__name__ != "ZstdError":
            raise
        reason = in_one_line(error)
        if "zstd not supported" in reason and missing("zstandard"):
            reason = f"it is compressed with zstd: {missing('zstandard')}"
        if "StopIteration" in reason:  # from a generator of `datasets`: a compressed file has no line
            reason = "it ends where data should follow; restore it"
        raise ValueError(f"corpus {corpus.name!r}: {where}: {reason}") from error


def remedy(corpus: HubCorpus) -> str:
    """Return how to bring a Hub corpus to a machine that cannot reach the Hub.

    A single file is named by its path: `datasets` 5.2 does not find a set in its cache again if one file of
    it was requested.
    """
    if corpus.file is not None:
        return (
            f"where the Hub can be reached, run hf download {corpus.dataset} {corpus.file} "
            f"--repo-type dataset --local-dir . and name the file by its path instead of {corpus.name}"
        )
    import datasets

    return (
        f"where the Hub can be reached, run datasets.load_dataset({corpus.dataset!r}, "
        f"{corpus.configuration!r}) in Python and copy its cache to {datasets.config.HF_DATASETS_CACHE}"
    )


def in_one_line(error: BaseException) -> str:
    """Return an error's message on one line, escaped; its type if it has none."""
    return one_line(str(error), _WORDS) or type(error).__name__
