"""Put models into the hub's cache before a run that has no network.

`make fetch-models MODELS=llama-3.1-8b,yi-34b`: names as for --mx-models. Each is fetched at the revision that
its card pins; what is there already is not fetched again. A gated model needs HF_TOKEN in the environment,
or `hf auth login`.
"""

from __future__ import annotations

import argparse

from huggingface_hub import snapshot_download

from mxcheck.models.zoo.known_models import model_source

#: What loading and tokenizing read; never pickled weights.
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
#: The same weights once more, in another layout.
IGNORED = ["original/*", "consolidated*"]


def main(words: list[str] | None = None) -> None:
    """Raises SystemExit, with one line, for a name that no model has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names, with commas or blanks between them")
    named = [name for word in parser.parse_args(words).models for name in word.split(",") if name]
    try:
        sources = [model_source(name) for name in named]
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for source in sources:
        if source.is_directory:
            print(f"{source.name}: lies in {source.location}")
            continue
        path = snapshot_download(
            source.location, revision=source.revision, allow_patterns=PATTERNS, ignore_patterns=IGNORED
        )
        print(f"{source.name}: {source.location} at {source.revision} lies in {path}")


if __name__ == "__main__":
    main()
