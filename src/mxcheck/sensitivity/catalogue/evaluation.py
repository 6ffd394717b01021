"""Faults of the evaluation: what is scored, against what, in which arithmetic, and how it is averaged."""

from __future__ import annotations

from functools import partial

from mxcheck.sensitivity.fault import Edit, Fault

_fault = partial(Fault, group="evaluation", formats=())
_MEASURE = "mxcheck.evaluation.measure"


def _evaluate(old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(target=f"{_MEASURE}:evaluate", old=old, new=new),)


def _distances(old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(target=f"{_MEASURE}:_distances", old=old, new=new),)


def _logits(new: str) -> tuple[Edit, ...]:
    """Logits taken otherwise than in float64, the model's and the reference's alike."""
    rows = "logits.rows(index, rows)"
    kept = "reference.logits.rows(sequence, rows).to(log_p.device)"
    return (
        *_evaluate(f"{rows}.double()", f"{rows}{new}"),
        *_distances(f"{kept}.double()", f"{kept}{new}"),
    )


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="loss_against_argmax",
        what="The loss is that of the most likely token, not of the true next one.",
        source="seen in a published MX evaluation script, which scored the model against its own argmax",
        changes=(
            Edit(
                target=f"{_MEASURE}:_losses",
                old="targets[:, None]",
                new="log_p.argmax(-1)[:, None]",
            ),
        ),
    ),
    _fault(
        name="not_shifted",
        what="A token is scored by the logits at its own position.",
        source="a porter's slip: labels = input_ids with a loss that does not shift",
        changes=_evaluate("batch[index, 1:][rows]", "batch[index, :-1][rows]"),
    ),
    _fault(
        name="shifted_twice",
        what="A token is scored by the logits two positions before it.",
        source="labels shifted in the data set and again by transformers' own loss",
        changes=_evaluate("batch[index, 1:][rows]", "batch[index].roll(-2)[:-1][rows]"),
    ),
    _fault(
        name="padding_scored",
        what="Sequences are padded, and the padding is scored like text.",
        source="axolotl pull request 3988; transformers' loss ignores -100, not what the mask leaves out",
        changes=_evaluate(
            "    _check_tokens(model, tokens)\n",
            "    _check_tokens(model, tokens)\n"
            "    tokens = torch.nn.functional.pad(tokens, (0, 16), value=1)\n",
        ),
    ),
    _fault(
        name="last_token_not_scored",
        what="The last token of each sequence is not scored.",
        source="a porter's slip: logits and targets each cut by one, twice",
        changes=_evaluate("chunks(batch.shape[1] - 1,", "chunks(batch.shape[1] - 2,"),
    ),
    _fault(
        name="last_batch_dropped",
        what="The last batch of sequences is not evaluated.",
        source="drop_last=True, carried over from a training loader",
        changes=(
            Edit(
                target="mxcheck.evaluation.logits:passes",
                old="range(0, len(tokens), batch_size)",
                new="range(0, max(1, len(tokens) - batch_size), batch_size)",
            ),
        ),
    ),
    _fault(
        name="sequences_out_of_order",
        what="Sequences are evaluated, and their results listed, in another order than the tokens'.",
        source="evaluation harnesses sort requests by length and have to put the answers back",
        changes=(
            Edit(
                target="mxcheck.evaluation.logits:passes",
                old="    large = logits_of(model, tokens) > SMALL\n",
                new="    tokens = tokens.flip(0)\n    large = logits_of(model, tokens) > SMALL\n",
            ),
        ),
    ),
    _fault(
        name="batches_mixed_up",
        what="From the second batch on, sequences are compared with the reference's of the first.",
        source="a porter's slip: an index within the batch for an index of the data set",
        changes=_evaluate('reference, len(means["loss"]), rows, own)', "reference, index, rows, own)"),
    ),
    _fault(
        name="mean_of_means",
        what="The cross-entropy is the mean over batches of ten, a last, smaller batch counting as much.",
        source="a porter's slip: losses collected by batch and averaged, whatever the batch's size",
        changes=_evaluate(
            'cross_entropy=_mean(means["loss"])',
            'cross_entropy=_mean([_mean(means["loss"][i : i + 10]) '
            'for i in range(0, len(means["loss"]), 10)])',
        ),
    ),
    _fault(
        name="perplexity_in_base_2",
        what="The perplexity is 2 to the power of a cross-entropy in nats.",
        source="the definition's 2^H needs bits; frameworks give nats",
        changes=(
            Edit(
                target=f"{_MEASURE}:Measurement.perplexity",
                old="exponential(self.cross_entropy)",
                new="2.0**self.cross_entropy",
            ),
        ),
    ),
    _fault(
        name="entropy_in_base_2",
        what="The entropy is in bits, the cross-entropy in nats.",
        source="scipy and torch default to nats, text books to bits",
        changes=(
            Edit(
                target=f"{_MEASURE}:_figures",
                old=".sum(-1)",
                new=".sum(-1) / 0.6931471805599453",
            ),
        ),
    ),
    _fault(
        name="kl_reversed",
        what="The KL divergence is that of the reference from the model, KL(model || reference).",
        source="torch.nn.functional.kl_div takes the model's log-probabilities first",
        changes=_distances(
            "(reference_log_p - log_p).mul_(reference_log_p.exp())",
            "(log_p - reference_log_p).mul_(log_p.exp())",
        ),
    ),
    _fault(
        name="kl_averaged_over_the_vocabulary",
        what="The KL divergence is divided by the length of the vocabulary.",
        source="torch.nn.functional.kl_div: its default reduction, 'mean', is not the divergence",
        changes=_distances(
            ".mul_(reference_log_p.exp()).sum(-1)",
            ".mul_(reference_log_p.exp()).mean(-1)",
        ),
    ),
    _fault(
        name="top1_against_the_text",
        what="The top-1 agreement is the model's accuracy on the text, not its agreement with the reference.",
        source="a porter's slip: both are called top-1",
        changes=_distances(
            "(reference_log_p.argmax(-1) == log_p.argmax(-1))", "(targets == log_p.argmax(-1))"
        ),
    ),
    _fault(
        name="logits_in_bf16",
        what="Log-probabilities are taken of logits rounded to bfloat16.",
        source="evaluation under autocast; taking the loss on bf16 logits moved its third digit",
        changes=_logits(".bfloat16().double()"),
    ),
    _fault(
        name="log_softmax_in_fp32",
        what="Log-probabilities are taken in float32, not in float64.",
        source="what every framework does by default; it moves a sequence's loss by about 5e-8 nats",
        changes=_logits(".float()"),
        survives="it moves the reference's losses too, as another machine's arithmetic would, and by less"
        " than the floor of 2e-6 nats that such a machine is allowed",
    ),
    _fault(
        name="reference_after_the_conversion",
        what="The reference is measured on the model as converted.",
        source="a porter's slip: one model object for both, converted in place",
        changes=(
            Edit(
                target="mxcheck.measure.emulation:emulate",
                old="conversion = convert(model, recipe)",
                new="conversion = convert(model, recipe)\n"
                "    reference = evaluate(model, tokens, batch_size=batch_size, keep_log_probabilities=True)",
            ),
        ),
    ),
)
