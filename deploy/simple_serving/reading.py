"""Reading a request: its JSON, its limits, and the tokens of its texts."""

import itertools
from dataclasses import dataclass

import numpy as np

from schemas import Invalid, Parameters
from stage import SMALL
from text_cls.language import tr
from text_cls.long_texts import WINDOWS, Windows, evidence_problem, joined, texts_in_parts

CHARACTERS_PER_PART = 8192  # tokenised at a time, so that a small request never waits for the whole of a big one
MAX_SCORES = 1 << 18  # of labels that are not predicted, in an answer: about 5 MB
MAX_OUTPUTS = 1 << 24  # of the windows of a request, which are held until the last of them has been run


@dataclass
class Asked:
    """A request that has been read. windows: of its texts, if the bundle reads texts in windows."""

    rows: list[np.ndarray]  # token ids of each text, or of each window
    characters: np.ndarray  # of each text
    windows: Windows | None
    parameters: Parameters


class Reader:
    """Reads the texts of requests within limits.

    Args:
        limits: as in `/info`.
        batcher: the `Batcher` that will run them.
        patience: function of the time when an answer is due, see `Batcher.check`.
    """

    def __init__(self, limits, batcher, patience):
        self._limits, self._batcher, self._patience = limits, batcher, patience

    async def read(self, texts, parameters, version, record, until, do):
        """The `Asked` of a request.

        Args:
            version: the `Version` that will answer.
            record: dict that receives what may be logged about the request.
            until: when its answer is due, by `time.monotonic()`.
            do: of `Stage.work`.
        Raises:
            Invalid, Full, Closed.
        """
        predictor = version.predictor
        length = parameters.max_seq_len or predictor.max_seq_length
        if length > version.longest:
            raise Invalid(
                tr(
                    "parameters.max_seq_len {length}: this model takes at most {longest} tokens",
                    length=length,
                    longest=version.longest,
                )
            )
        if length <= predictor.tokenizer.fixed:
            raise Invalid(
                tr(
                    "parameters.max_seq_len {length}: {fixed} of them are special tokens; allow more",
                    length=length,
                    fixed=predictor.tokenizer.fixed,
                )
            )
        scores = len(predictor.labels) if parameters.all_scores else min(parameters.top_k or 0, len(predictor.labels))
        if scores * len(texts) > MAX_SCORES:
            raise Invalid(
                tr(
                    "{count} texts with {scores} scores each, but an answer may have at most {max_scores}; send the "
                    "texts in several requests, or ask for fewer scores with parameters.top_k",
                    count=len(texts),
                    scores=scores,
                    max_scores=MAX_SCORES,
                )
            )
        if parameters.evidence and (problem := evidence_problem(predictor.long_texts)):
            raise Invalid(f"parameters.evidence: {problem}")
        in_windows, rows, parts, record["tokens"] = predictor.long_texts.mode == WINDOWS, [], [], 0
        for part in texts_in_parts(texts, CHARACTERS_PER_PART):
            # Awaited part by part: others are read in between, and a request whose client has left ends here.
            encoded = await do(SMALL, self._encode, predictor, part, length, until)
            parts.append(encoded)
            rows += rows_of(encoded.tokens if in_windows else encoded)
            record["tokens"] += int(encoded.lengths.sum())
            record.update({"windows": len(rows)} if in_windows else {})
            self._check_size(len(rows), record["tokens"], version)
        windows = joined_windows(parts) if in_windows else None
        return Asked(rows, np.array([*map(len, texts)]), windows, parameters)

    def _check_size(self, rows, tokens, version):
        """Raises Invalid if a request of at least these rows and tokens is too large, whatever else waits."""
        predictor = version.predictor
        most, remedy = self._limits["queue_tokens"], tr("send the texts in several requests, or ")
        remedy += (
            tr("shorten them") if predictor.long_texts.mode == WINDOWS else tr("set a smaller parameters.max_seq_len")
        )
        if tokens > most:
            raise Invalid(
                tr(
                    "at least {tokens} tokens, but at most {most} may wait at a time; {remedy}",
                    tokens=tokens,
                    most=most,
                    remedy=remedy,
                )
            )
        if rows * predictor.columns > MAX_OUTPUTS and rows > self._limits["max_texts"]:
            raise Invalid(
                tr(
                    "at least {rows} windows, too many for {columns} labels; {remedy}",
                    rows=rows,
                    columns=predictor.columns,
                    remedy=remedy,
                )
            )
        seconds, limit = version.model.least_seconds(tokens), self._limits["deadline_seconds"]
        if seconds > limit:
            raise Invalid(
                tr(
                    "{tokens} tokens take this server at least {seconds:.1f} s, but its limit is {limit:g} s; {remedy}",
                    tokens=tokens,
                    seconds=seconds,
                    limit=limit,
                    remedy=remedy,
                )
            )

    def _encode(self, predictor, texts, length, until):
        """The tokens of some texts, unless it is too late for them by now. Called in the thread for reading."""
        self._batcher.check(patience=self._patience(until))
        return predictor.encode(texts, length)


def rows_of(encoded):
    """The token ids of each row of an `Encoded`."""
    ids = encoded.columns["input_ids"]
    return [ids[start:end] for start, end in itertools.pairwise(encoded.offsets)]


def joined_windows(parts):
    """The `Windows` of all texts, from those of some texts each."""
    offsets = np.cumsum([0, *(count for part in parts for count in part.counts)])
    spans = np.concatenate([part.spans for part in parts])
    tokens, truncated = joined([part.tokens for part in parts]), sum(part.truncated for part in parts)
    return Windows(tokens, offsets, spans, truncated, parts[0].pooling)
