"""Faults of the evaluation: the scored tokens, their reference, the arithmetic, and the averages."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import (
    argument,
    assignment,
    call,
    comparison,
    entry,
    returned,
    statement,
    value,
)

_fault = partial(Fault, group="evaluation", formats=())
_MEASURE = "mxcheck.evaluation.measure"
_EVALUATE = f"{_MEASURE}:evaluate"
_FIGURES = "mxcheck.evaluation.token_figures"
_DISTANCES = f"{_FIGURES}:_distances"
_LOG_SOFTMAX = f"{_FIGURES}:_log_softmax"
_PASSES = "mxcheck.evaluation.logits:passes"


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="loss_against_argmax",
        what="The loss is that of the most likely token, not of the true next one.",
        source="seen in a published MX evaluation script, which scored the model against its own argmax",
        changes=rewrite(f"{_FIGURES}:_losses", call("gather"), argument(2), to="log_p.argmax(-1)[:, None]"),
    ),
    _fault(
        name="not_shifted",
        what="A token is scored by the logits at its own position.",
        source="a porter's slip: labels = input_ids with a loss that does not shift",
        changes=rewrite(_EVALUATE, value("targets"), to="batch[index, :-1][rows].to(own_rows.device)"),
    ),
    _fault(
        name="shifted_twice",
        what="A token is scored by the logits two positions before it.",
        source="labels shifted in the data set and again by transformers' own loss",
        changes=rewrite(
            _EVALUATE, value("targets"), to="batch[index].roll(-2)[:-1][rows].to(own_rows.device)"
        ),
    ),
    _fault(
        name="padding_scored",
        what="Sequences are padded, and the padding is scored like text.",
        source="axolotl pull request 3988; transformers' loss ignores -100, not what the mask leaves out",
        changes=rewrite(
            _EVALUATE,
            call("_check_tokens"),
            statement(),
            to="it\ntokens = torch.nn.functional.pad(tokens, (0, 16), value=1)",
        ),
    ),
    _fault(
        name="last_token_not_scored",
        what="The last token of each sequence is not scored.",
        source="a porter's slip: logits and targets each cut by one, twice",
        changes=rewrite(_EVALUATE, call("append"), argument(1), to="_mean(numbers[:-1])"),
    ),
    _fault(
        name="last_batch_dropped",
        what="The last batch of sequences is not evaluated.",
        source="drop_last=True, carried over from a training loader",
        changes=rewrite(_PASSES, call("range"), argument(2), to="max(1, it - batch_size)"),
    ),
    _fault(
        name="sequences_out_of_order",
        what="Sequences are evaluated, and their results listed, in another order than the tokens'.",
        source="evaluation harnesses sort requests by length and have to put the answers back",
        changes=rewrite(_PASSES, to="tokens = tokens.flip(0)\nit"),
    ),
    _fault(
        name="batches_mixed_up",
        what="From the second batch on, sequences are compared with the reference's of the first.",
        source="a porter's slip: an index within the batch for an index of the data set",
        changes=rewrite(_EVALUATE, call("_reference_rows"), argument(2), to="index"),
    ),
    _fault(
        name="mean_of_means",
        what="The cross-entropy is the mean over batches of ten, a last, smaller batch counting as much.",
        source="a porter's slip: losses collected by batch and averaged, whatever the batch's size",
        changes=rewrite(
            _EVALUATE,
            argument("cross_entropy"),
            to='_mean([_mean(means["loss"][i : i + 10]) for i in range(0, len(means["loss"]), 10)])',
        ),
    ),
    _fault(
        name="perplexity_in_base_2",
        what="The perplexity is 2 to the power of a cross-entropy in nats.",
        source="the definition's 2^H needs bits; frameworks give nats",
        changes=rewrite(f"{_MEASURE}:Measurement.perplexity", returned(), to="2.0**self.cross_entropy"),
    ),
    _fault(
        name="entropy_in_base_2",
        what="The entropy is in bits, the cross-entropy in nats.",
        source="scipy and torch default to nats, text books to bits",
        changes=rewrite(f"{_FIGURES}:_figures", entry("entropy"), to="it / 0.6931471805599453"),
    ),
    _fault(
        name="kl_reversed",
        what="The KL divergence is that of the reference from the model, KL(model || reference).",
        source="torch.nn.functional.kl_div takes the model's log-probabilities first",
        changes=rewrite(_DISTANCES, value("kl"), to="(log_p - reference_log_p).mul_(log_p.exp()).sum(-1)"),
    ),
    _fault(
        name="kl_averaged_over_the_vocabulary",
        what="The KL divergence is divided by the length of the vocabulary.",
        source="torch.nn.functional.kl_div: its default reduction, 'mean', is not the divergence",
        changes=rewrite(
            _DISTANCES, value("kl"), to="(reference_log_p - log_p).mul_(reference_log_p.exp()).mean(-1)"
        ),
    ),
    _fault(
        name="top1_against_the_text",
        what="The top-1 agreement is the model's accuracy on the text, not its agreement with the reference.",
        source="a porter's slip: both are called top-1",
        changes=rewrite(
            _DISTANCES, value("agreement"), comparison("log_p"), to="targets == log_p.argmax(-1)"
        ),
    ),
    _fault(
        name="logits_in_bf16",
        what="Log-probabilities are taken of logits rounded to bfloat16.",
        source="evaluation under autocast; taking the loss on bf16 logits moved its third digit",
        changes=rewrite(_LOG_SOFTMAX, call("copy_"), argument(1), to="it.bfloat16()"),
    ),
    _fault(
        name="log_softmax_in_fp32",
        what="Log-probabilities are taken in float32, not in float64.",
        source="what every framework does by default; it moves a sequence's loss by about 5e-8 nats",
        changes=rewrite(
            _LOG_SOFTMAX, call("log_softmax"), to="log_p.copy_(torch.log_softmax(logits.float(), dim=-1))"
        ),
    ),
    _fault(
        name="reference_after_the_conversion",
        what="The reference is measured on the model as converted.",
        source="a porter's slip: one model object for both, converted in place",
        changes=rewrite(
            "mxcheck.measure.emulation:emulate",
            assignment("conversion"),
            to="it\nreference = evaluate(model, tokens, batch_size=batch_size, keep_log_probabilities=True)",
        ),
    ),
)
