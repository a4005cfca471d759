"""BrowseComp-Plus: 830 multi-hop questions, here over 1,000 of its 100,195 documents each.

Hub: Tevatron/browsecomp-plus (split test, 2.79 GB) and Tevatron/browsecomp-plus-corpus (split
train, plain text); the page says mit. In the first every text but ``query_id`` is base64 of the
bytes XOR the repeated sha256 of a canary string, which stands in the set's own decryption script
and not in ours: give it as ``canary`` or the script as ``canary_file``. What is decrypted stays in
memory: ``SealedWindow`` refuses to be written, and tasks carry ``meta["sealed"]``, which tells
whoever stores results to leave question and gold out.

The paper's setting (150 of the 830, 1,000 documents with gold and evidence among them) is not
published in detail: neither the 150, nor the seed, the share of hard negatives, the layout of a
document, or the judge. Ours: the questions with the lowest sha256 of "seed/query_id"; gold and
evidence, then the question's negatives, then random documents of the corpus, once each by docid,
shuffled by a seed from the same hash. Unknown: a revision (for the Hub, set both) and the names of
the files (data/test-*, data/train-* are assumed).

Score: normalised exact match of what follows "Exact Answer:", with containment beside it as an
optimistic bound; with ``hooks.judge``, its verdict is the score (a reply it can't read is wrong).
The wording of the answer's format is ours.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from data_gen.real import sealed, source
from data_gen.real.rows import Files, Origin, Row, RowHash, expect_count, rows, scan
from data_gen.real.scoring import Hooks, Score
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text

FAMILY = "browsecomp-plus"
QUERIES = Origin(
    repo="Tevatron/browsecomp-plus",
    files=("data/test-*.parquet",),
    columns={
        "query_id": "text or integer",
        "query": "text",
        "answer": "text",
        "gold_docs": "list of documents",
        "negative_docs": "list of documents",
        "evidence_docs": "list of documents",
    },
)
CORPUS = Origin(
    repo="Tevatron/browsecomp-plus-corpus",
    files=("data/train-*.parquet",),
    columns={"docid": "text or integer", "text": "text", "url": "text or nothing"},
)
FORMAT = (
    "Answer in this form:\nExplanation: why, in a sentence or two\n"
    "Exact Answer: the answer alone\nConfidence: 0% to 100%"
)
_SEPARATOR = "\n\n"
_EXACT = re.compile(r"exact answer[*\s]*:[*\s]*([^\n]*)", re.IGNORECASE)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


class BrowseCompPlusConfig(source.RealConfig):
    """Which questions, how many documents, and the canary."""

    revision: str = ""  # none is known
    corpus_path: Path | None = None  # None: from the Hub
    corpus_revision: str = ""  # none is known
    canary: str = Field(default="", repr=False)
    canary_file: Path | None = None  # the set's decryption script, or a file with the canary alone
    documents: int = Field(default=1_000, gt=0)  # in each context
    questions: int | None = Field(default=150, gt=0)  # chosen by seed; None: all
    seed: int = 0
    rows: int = 830
    corpus_rows: int = 100_195


@dataclass(frozen=True)
class Corpus:
    """Where the documents lie, and how long each is as it is shown (bytes)."""

    files: Files
    numbers: dict[str, int]  # docid -> row
    sizes: dict[str, int]
    sha256: str


def load(config: BrowseCompPlusConfig) -> source.RealSet:
    """Its questions, each with its own window. The corpus is read once here if it is needed.

    Making a window's text reads the corpus again (3 GB) for the documents of that window.

    Raises:
        InputError: no canary or a wrong one; a file can't be had, or is another than expected.
    """
    key = sealed.key(config.canary, config.canary_file)
    files = source.find(QUERIES, config.path, config.revision)
    ids = {number: str(row["query_id"]) for number, row in rows(files, ("query_id",))}
    expect_count(files, "rows", len(ids), config.rows)
    ranked = sorted(ids, key=lambda number: sha256_text(f"{config.seed}/{ids[number]}"))
    chosen = set(ranked[: config.questions])
    read = tuple(QUERIES.columns)
    digest, short = RowHash(), 0
    used = sorted(chosen)[: config.limit]
    for _, row in rows(files, read, set(used)):
        digest.add(row)
        own = _own_documents(sealed.opened(row, key), config.documents)
        short = max(short, config.documents - len(own))
    corpus = _corpus(config) if short else None
    sha256 = source.joined_hash(digest.hexdigest(), corpus.sha256 if corpus else "")
    told = files.source + (f" with {corpus.files.source}" if corpus else "")
    data = f"{told} sha256:{sha256}"

    def windows() -> Iterator[Window]:
        for _, row in rows(files, read, set(used)):
            yield _window(sealed.opened(row, key), corpus, config, data)

    return source.RealSet(FAMILY, told, len(ids), sha256, windows)


def score(task: Task, answer: str, hooks: Hooks) -> Score:
    """Exact match, or the judge's verdict if there is one."""
    gold = str(task.answer)
    parts = {"exact_match": exact_match(gold, answer), "contains": contains(gold, answer)}
    if hooks.judge is None:
        return Score.of("exact_match", parts)
    verdict = hooks.judge(task.question, gold, answer)
    return Score.of("judge", parts | {"judge": float(verdict is True)})


def exact_match(gold: str, answer: str) -> float:
    """1 if the exact answer, or the whole where none is marked, is the gold after normalising."""
    marked = _EXACT.findall(answer)
    return float(normalise(marked[-1] if marked else answer) == normalise(gold))


def contains(gold: str, answer: str) -> float:
    """1 if the gold's words occur in the answer in a row: never below ``exact_match``."""
    wanted = normalise(gold)
    inside = bool(wanted) and f" {wanted} " in f" {normalise(answer)} "
    return max(float(inside), exact_match(gold, answer))


def normalise(text: str) -> str:
    """Lower case, without punctuation and English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def shown(document: Row) -> str:
    """A document as the context shows it."""
    url = f"URL: {document['url']}\n" if document.get("url") else ""
    return f"DOCID: {document['docid']}\n{url}TEXT:\n{document['text']}"


def _own_documents(row: Row, most: int) -> dict[str, str]:
    """docid -> text of gold and evidence, then negatives, ``most`` in all."""
    needed = {str(one["docid"]): shown(one) for one in row["gold_docs"] + row["evidence_docs"]}
    if len(needed) > most:
        raise InputError(
            f"question {row['query_id']} has {len(needed)} gold and evidence documents, more than "
            f"documents={most}; set `documents:` to at least that"
        )
    for one in row["negative_docs"]:
        if len(needed) < most:
            needed.setdefault(str(one["docid"]), shown(one))
    return needed


def _corpus(config: BrowseCompPlusConfig) -> Corpus:
    files = source.find(CORPUS, config.corpus_path, config.corpus_revision, field="corpus_path")
    numbers: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def note(row: Row) -> bool:
        docid = str(row["docid"])
        numbers[docid] = len(numbers)
        sizes[docid] = _bytes(shown(row))
        return True

    found = scan(files, tuple(CORPUS.columns), note, None)
    expect_count(files, "documents", found.rows, config.corpus_rows)
    expect_count(files, "different docids", len(numbers), config.corpus_rows)
    return Corpus(files, numbers, sizes, found.sha256)


def _window(row: Row, corpus: Corpus | None, config: BrowseCompPlusConfig, data: str) -> Window:
    query_id = str(row["query_id"])
    own = _own_documents(row, config.documents)
    rng = random.Random(sha256_text(f"{config.seed}/{query_id}"))
    order = list(own)
    if corpus and len(own) < config.documents:
        others = [docid for docid in corpus.numbers if docid not in own]
        if len(others) < config.documents - len(own):
            raise InputError(f"the corpus is too small for documents={config.documents}; lower it")
        order += rng.sample(others, config.documents - len(own))
    rng.shuffle(order)

    def chunks() -> Iterator[str]:
        texts = dict(own)
        if corpus:
            wanted = {corpus.numbers[docid] for docid in order if docid not in own}
            for _, document in rows(corpus.files, tuple(CORPUS.columns), wanted):
                texts[str(document["docid"])] = shown(document)
        for docid in order:
            yield from source.pieces(texts[docid] + _SEPARATOR)

    sizes = (corpus.sizes if corpus else {}) | {docid: _bytes(text) for docid, text in own.items()}
    size = sum(sizes[docid] + len(_SEPARATOR) for docid in order)
    length = size // BYTES_PER_TOKEN
    meta: dict[str, Any] = {
        "kind": "question",
        "bucket": f"{len(order)} documents",
        "length": length,
        "window_id": f"{FAMILY}-{query_id}",
        "sealed": True,
        "row": query_id,
        "data": data,
    }
    task = Task(
        id=source.task_id(FAMILY, query_id, config.documents, config.seed),
        family=FAMILY,
        question=f"{row['query']}\n\n{FORMAT}",
        answer=row["answer"],
        metric="exact_match",
        meta=meta,
    )
    return sealed.SealedWindow(
        id=meta["window_id"], family=FAMILY, length=length, seed=0, tasks=[task], chunks=chunks
    )


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
