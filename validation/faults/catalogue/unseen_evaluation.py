"""Faults of the evaluation, written before any run searched for them: scores and averages, measurements of
layers and casts, the text, and the contents of a record."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import (
    argument,
    call,
    comparison,
    loop,
    operation,
    returned,
    value,
)

_fault = partial(Fault, group="evaluation", formats=(), unseen=True)
_MEASURE = "mxcheck.evaluation.measure"
_DISTANCES = "mxcheck.evaluation.token_figures:_distances"
_PREDICTIONS = "mxcheck.evaluation.prediction_figures"
_SUBLAYERS = "mxcheck.evaluation.sublayer_errors"
_COUNTERS = "mxcheck.evaluation.cast_counts"
_RECORD = "mxcheck.measure.measure_case:_measured"

FAULTS: tuple[Fault, ...] = (
    _fault(
        name="kl_of_the_top_1000",
        what="The KL divergence leaves out all but the reference's 1,000 most likely tokens.",
        source="engines return the log-probabilities of a few tokens, which suffice for most of the sum",
        changes=rewrite(
            _DISTANCES,
            value("kl"),
            to="(reference_log_p - log_p).mul_(reference_log_p.exp())"
            ".gather(-1, reference_log_p.topk(min(1000, log_p.shape[-1])).indices).sum(-1)",
        ),
    ),
    _fault(
        name="kl_without_negative_terms",
        what="Terms of the KL divergence below zero count as zero.",
        source="a porter's slip: a clamp against rounding, put before the sum and not after it",
        changes=rewrite(
            _DISTANCES,
            value("kl"),
            to="(reference_log_p - log_p).mul_(reference_log_p.exp()).clamp_(min=0).sum(-1)",
        ),
    ),
    _fault(
        name="reference_logits_kept_in_fp16",
        what="The reference's logits are kept in fp16 until a case is compared with them.",
        source="llama.cpp's perplexity tool stores the base model's log-probabilities in 16 bits",
        changes=rewrite(
            "mxcheck.evaluation.logits:WholeLogits.copies", call("clone"), to="it.half().to(logits.dtype)"
        ),
    ),
    _fault(
        name="perplexity_by_sequence",
        what="The perplexity is the mean of the sequences' perplexities.",
        source="the perplexity metric of Hugging Face's evaluate averages texts",
        changes=rewrite(
            f"{_MEASURE}:Measurement.perplexity",
            returned(),
            to="sum(map(exponential, self.sequence_losses)) / len(self.sequence_losses)",
        ),
    ),
    _fault(
        name="mean_over_the_whole_length",
        what="A sequence's loss is divided by its length, the first token included, which is not scored.",
        source="a porter's slip: tokens counted before the shift",
        changes=rewrite(
            f"{_MEASURE}:evaluate",
            call("_mean", nth=1),
            to="it * (len(numbers) / batch.shape[1] if name in ('loss', 'reference_loss') else 1)",
        ),
    ),
    _fault(
        name="means_in_float32",
        what="Means over tokens and sequences are taken in float32.",
        source="torch.tensor of a list of floats is float32 unless told otherwise",
        changes=rewrite(f"{_MEASURE}:_mean", call("tensor"), argument("dtype"), to="torch.float32"),
    ),
    _fault(
        name="padding_id_masked",
        what="Tokens with the id of BOS, which serves as padding, are masked out of attention.",
        source="tokenizers without a padding token borrow BOS or EOS, and masks are made from that id",
        changes=rewrite(
            "mxcheck.evaluation.logits:passes",
            call("model"),
            to="model(input_ids=batch, attention_mask=(batch != 0).long(), use_cache=False)",
        ),
    ),
    _fault(
        name="k3_reversed",
        what="The estimate of the KL from single tokens takes the ratio of both models upside down.",
        source="both directions are called KL, and k3 is written for either",
        changes=rewrite(f"{_PREDICTIONS}:_k3", value("log_ratio"), to="-it"),
    ),
    _fault(
        name="percentiles_of_sequences",
        what="Percentiles of the KL are those of sequences' means, not of tokens.",
        source="a porter's slip: statistics over what was averaged already",
        changes=rewrite(
            f"{_PREDICTIONS}:predictions", call("_percentiles", nth=1), argument(1), to="it.mean(1)"
        ),
    ),
    _fault(
        name="sequences_share_a_tensor_scale",
        what="Where one scale spans a tensor, all sequences of a pass share it.",
        source="per-tensor scales of a batch: results depend on who else is in it",
        changes=(
            *rewrite(f"{_MEASURE}:evaluate", value("batch_size"), to="batch_size"),
            *rewrite(_RECORD, value("together"), to="measuring.batch_size_of(case.model)"),
        ),
        precisions=("fp8_tensor_e4m3", "nvfp4"),
    ),
    _fault(
        name="mlp_takes_the_converted_input",
        what="When layers are measured, attention and MLP take the inputs that a converted layer gives them.",
        source="a porter's slip: hooks on one pass for both, so that an MLP's error has attention's in it",
        changes=rewrite(f"{_SUBLAYERS}:sublayer_errors", argument("given"), to="None"),
    ),
    _fault(
        name="first_layer_alone_from_its_state",
        what="When layers are measured, the first alone starts from its stored state.",
        source="a porter's slip: a hook that is removed when the first layer has run",
        changes=rewrite(
            "mxcheck.evaluation.layer_states:started_from",
            call("callback"),
            loop(),
            to="list(it)[:1]",
        ),
    ),
    _fault(
        name="error_beside_the_converted_update",
        what="A layer's error is measured beside the converted model's update, not the reference's.",
        source="relative errors, whose denominator is either of two",
        changes=rewrite(
            f"{_SUBLAYERS}:_figures",
            value("update"),
            to="after if residual is None else after - _rows(residual, tokens)",
        ),
    ),
    _fault(
        name="typical_error_by_the_mean",
        what="A layer's typical error is the mean over tokens, which one token decides, not the median.",
        source="a porter's slip: an average is what nobody asks about",
        changes=rewrite(f"{_SUBLAYERS}:_figures", call("_quantile", nth=3), to="float(norm.mean())"),
    ),
    _fault(
        name="equal_to_the_limit_saturates",
        what="An element of just the largest magnitude counts as saturated.",
        source="a porter's slip: >= for >",
        changes=(
            *rewrite("mxcheck.kernels.counts:_tally", comparison("size", nth=1), to="size >= limits"),
            *rewrite("mxcheck.kernels.counts:_tally", comparison("largest", nth=1), to="largest >= limits"),
        ),
        precisions=("mxfp8_e4m3", "mxint8"),
    ),
    _fault(
        name="zeros_count_as_flushed",
        what="An element that is zero before the cast counts among those that became zero.",
        source="a porter's slip: zero codes are counted, and where they come from is not asked",
        changes=rewrite("mxcheck.kernels.counts:_tally", operation("&"), to="magnitudes == 0"),
    ),
    _fault(
        name="counts_of_the_last_call",
        what="Of an operand that is cast several times in a pass, as experts' are, the last cast is counted.",
        source="a porter's slip: an assignment for an addition",
        changes=rewrite(f"{_COUNTERS}:_together", call("total"), argument(1), to="list(it)[-1:]"),
    ),
    _fault(
        name="queries_counted_as_probabilities",
        what="Counts of attention's first and second product have each other's names.",
        source="a porter's slip: a counter that begins at one",
        changes=rewrite(f"{_COUNTERS}:_counted", value("calls", nth=1), to="1"),
        options=("--mx-attention",),
    ),
    _fault(
        name="losses_swapped_in_the_record",
        what="In the record the case's losses by sequence and the reference's have each other's places.",
        source="a porter's slip: two lists of one shape",
        changes=(
            *rewrite(_RECORD, argument("reference_losses"), to="result.sequence_losses"),
            *rewrite(_RECORD, argument("sequence_losses"), to="reference.sequence_losses"),
        ),
    ),
    _fault(
        name="unscored_tokens_counted",
        what="The record counts the first token of each sequence as scored.",
        source="a porter's slip: the number of tokens for that of predictions",
        changes=rewrite(_RECORD, argument("scored_tokens"), to="tokens.numel()"),
    ),
    _fault(
        name="arithmetic_of_another_type",
        what="A precision that computes in bf16 has the digest of fp32 products, so that it counts as"
        " measured on a machine of other arithmetic.",
        source="a porter's slip: a cache without its key",
        changes=rewrite(
            "mxcheck.measure.model_session:ModelSession.arithmetic",
            returned(),
            to="next(iter(self._arithmetic.values()))",
        ),
    ),
    _fault(
        name="sequences_cut_at_the_front",
        what="A shorter sequence length takes the end of each sequence, not its beginning.",
        source="left truncation, which tokenizers have for chat",
        changes=rewrite(
            "mxcheck.measure.evaluation_tokens:_own",
            call("contiguous"),
            to="tokens[: measuring.max_samples, -length:].contiguous()",
        ),
        options=("--mx-sequence-length", "128"),
    ),
    _fault(
        name="last_sequences_for_the_first",
        what="Where fewer sequences are asked for than there are, the last ones are measured.",
        source="a porter's slip: samples taken from an end",
        changes=rewrite(
            "mxcheck.measure.evaluation_tokens:_own",
            call("contiguous"),
            to="tokens[-measuring.max_samples :, :length].contiguous()",
        ),
    ),
    _fault(
        name="two_bos_before_a_text",
        what="A text that is encoded begins with two BOS tokens.",
        source="lm-evaluation-harness issue 3333: BOS by the tokenizer and by the harness",
        changes=rewrite("mxcheck.evaluation.corpora:_encode", argument("add_special_tokens"), to="True"),
        options=("--mx-datasets", "prose"),
    ),
    _fault(
        name="blocks_overlap_by_one",
        what="Each block of a text that is encoded begins with the last token of the block before.",
        source="strided evaluation, in which the overlap is context and not scored",
        changes=rewrite(
            "mxcheck.evaluation.corpora:_from",
            value("blocks"),
            to="torch.stack([torch.tensor(ids)[one * (wanted - 1) :][:wanted] for one in range(count)])",
        ),
        options=("--mx-datasets", "prose"),
    ),
    _fault(
        name="noise_without_its_settings",
        what="The child that measures noise runs with the parent's instruction sets, so that noise is zero.",
        source="settings that have to stand in the environment before a library is loaded",
        changes=rewrite(
            "mxcheck.measure.measured_noise:_run_child",
            argument("env"),
            to="{name: value for name, value in it.items() if name not in settings}",
        ),
        survives="noise is measured where a case is accepted, and these runs hold cases;"
        " tests/unit/measure/test_measured_noise.py is red",
    ),
    _fault(
        name="noise_with_all_threads",
        what="The child that measures noise computes with torch's own number of threads, the case with one.",
        source="a porter's slip: a count that is set in one of two processes",
        changes=rewrite("mxcheck.measure.measured_noise:_job", argument("threads"), to="0"),
        survives="noise is measured where a case is accepted, and these runs hold cases;"
        " tests/unit/measure/test_measured_noise.py is red",
    ),
)
