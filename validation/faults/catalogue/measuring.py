"""Faults of measurements and counters that may have existed at acceptance: the baseline has them too."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, Rewrite, rewrite
from validation.faults.fault_place import argument, assignment, call, entry, operation, returned, value

_fault = partial(Fault, group="measuring", formats=())
_EVALUATE = "mxcheck.evaluation.measure:evaluate"
_FIGURES = "mxcheck.evaluation.token_figures:_figures"
_DISTANCES = "mxcheck.evaluation.token_figures:_distances"
_PREDICTIONS = "mxcheck.evaluation.prediction_figures"
_CHUNKS = "mxcheck.evaluation.logits:chunks"
_NBYTES = "mxcheck.kernels.quantized:QuantizedTensor.nbytes"
_CORPORA = "mxcheck.evaluation.corpora"
_LIKELIEST = "log_p.topk(log_p.shape[-1] * 9 // 10, dim=-1).values"


def _kept(field: str) -> tuple[Rewrite]:
    """Keep a field of the record at its value of a model's first measurement under a recipe."""
    return rewrite(
        "mxcheck.measure.measure_case:_measured",
        call("Record"),
        argument(field),
        to=f"measure_case.__dict__.setdefault((case.model, str(recipe), {field!r}), it)",
    )


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="top5_for_top1",
        what="The top-1 agreement says whether the reference's first token is among the model's first five.",
        source="image classifiers are quoted by both, and a table's column by one",
        changes=rewrite(
            _DISTANCES,
            value("agreement"),
            to="(log_p.topk(5, dim=-1).indices == reference_log_p.argmax(-1, keepdim=True)).any(-1)",
        ),
    ),
    _fault(
        name="entropy_of_the_likeliest_tokens",
        what="The entropy leaves out the least likely tenth of the vocabulary.",
        source="engines that return the log-probabilities of the first tokens alone",
        changes=rewrite(_FIGURES, entry("entropy"), to=f"-({_LIKELIEST}.exp() * {_LIKELIEST}).sum(-1)"),
    ),
    _fault(
        name="k3_of_the_reciprocal",
        what="The KL by k3 is taken of p/q in place of q/p.",
        source="the estimator's own note defines it for samples of the other distribution",
        changes=rewrite(f"{_PREDICTIONS}:_k3", value("log_ratio"), to="losses - reference_losses"),
    ),
    _fault(
        name="parts_of_a_sequence_swapped",
        what="The KL by position lists the last part first.",
        source="a porter's slip: positions counted from the end",
        changes=rewrite(f"{_PREDICTIONS}:predictions", argument("kl_by_position"), to="it[::-1]"),
    ),
    _fault(
        name="token_lost_at_a_chunk_s_border",
        what="The last token of each chunk but the last is not scored.",
        source="a porter's slip: the shift by one applied to every chunk",
        changes=rewrite(_CHUNKS, call("min"), operation("+"), to="it - 1"),
    ),
    _fault(
        name="token_twice_at_a_chunk_s_border",
        what="The last token of a chunk is scored again with the next.",
        source="strided perplexity: windows that overlap by one",
        changes=rewrite(_CHUNKS, call("slice"), argument(1), to="max(0, it - 1)"),
    ),
    _fault(
        name="last_chunk_dropped",
        what="A last chunk that is not full is not scored.",
        source="a porter's slip: floor division for the number of chunks",
        changes=rewrite(_CHUNKS, call("range"), argument(2), to="max(1, it - it % size)"),
    ),
    _fault(
        name="targets_of_the_first_chunk",
        what="Each chunk is scored against the tokens of the first.",
        source="a porter's slip: an index within the chunk for an index within the sequence",
        changes=rewrite(
            _EVALUATE,
            value("targets"),
            to="batch[index, 1:][: len(batch[index, 1:][rows])].to(own_rows.device)",
        ),
    ),
    _fault(
        name="head_one_chunk_late",
        what="Logits of a chunk are computed from the hidden states of the chunk before.",
        source="a porter's slip: a buffer that is read before it is filled",
        changes=rewrite(
            "mxcheck.evaluation.logits:HeadLogits.rows",
            value("hidden"),
            to="self.sequences[sequence].roll(rows.stop - rows.start, 0)[rows].to(self.device)",
        ),
    ),
    _fault(
        name="scales_not_weighed",
        what="The bytes of quantized weights leave out the scales.",
        source="model cards that quote four bits an element",
        changes=rewrite(
            _NBYTES, returned(), operation("+"), to="self.codes.numel() // length * packed_length"
        ),
    ),
    _fault(
        name="codes_not_packed",
        what="The bytes of quantized weights count a byte a code.",
        source="a porter's slip: nbytes of the tensor that holds the codes",
        changes=rewrite(_NBYTES, value("packed_length"), to="length"),
    ),
    _fault(
        name="tied_head_weighed_twice",
        what="A head that shares the embedding's weight is counted beside it.",
        source="parameter counts by name, which list a tied weight twice",
        changes=rewrite(
            "mxcheck.models.conversion.convert:_weight_bytes",
            assignment("left[]"),
            to="left[hash((name, key))] = parameter.nbytes",
        ),
    ),
    _fault(
        name="text_without_its_bos",
        what="Blocks of a text begin without the BOS that the tokenizer puts there.",
        source="add_special_tokens=False for every block, where the model was trained with a BOS",
        changes=rewrite(f"{_CORPORA}:_bos", returned(), to="[]"),
    ),
    _fault(
        name="last_document_dropped",
        what="The last document that was read is no part of the text.",
        source="a porter's slip: the separator's loop, which joins all but the last",
        changes=rewrite(f"{_CORPORA}:_read", call("join"), argument(1), to="it[:-1]"),
    ),
    _fault(
        name="documents_run_together",
        what="Documents are joined without the empty line.",
        source="corpora that were joined with a blank, an EOS or nothing; perplexities differ by per cent",
        changes=rewrite(f"{_CORPORA}:_read", call("join"), to="''.join(read)"),
    ),
    _fault(
        name="digests_kept_by_model_and_recipe",
        what="Digests of the casts are kept by model and recipe, whatever the casts do since.",
        source="a cache that saves the slowest step of a run, with a key that lacks the code",
        changes=_kept("digests"),
    ),
    _fault(
        name="losses_kept_by_model_and_recipe",
        what="The losses of a case are kept by model and recipe.",
        source="evaluation harnesses that cache requests by their arguments",
        changes=_kept("sequence_losses"),
    ),
)
