"""BrowseComp-Plus: decryption in memory only, the documents of a context, scores."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.config import GenerateConfig
from data_gen.real import Hooks, browsecomp_plus, configure, load, score, sealed
from data_gen.supply import supply
from rlm_executor.config import load_config
from rlm_executor.errors import InputError

THOUSAND = Path(__file__).parents[2] / "configs" / "data" / "thousand.yaml"
CANARY = "MADE UP FOR THIS TEST. canary GUID test:1234"
SECRET = hashlib.sha256(CANARY.encode()).digest()


def encrypt(text: str) -> str:
    """As the set's authors do, byte by byte."""
    pairs = zip(text.encode(), itertools.cycle(SECRET), strict=False)
    return base64.b64encode(bytes(a ^ b for a, b in pairs)).decode()


def document(name: str) -> dict[str, str]:
    return {"docid": name, "text": f"text of {name}", "url": f"http://{name}"}


def shut(documents: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: encrypt(value) for name, value in one.items()} for one in documents]


def query_row(number: int) -> dict[str, Any]:
    gold, extra = document(f"g{number}"), document(f"e{number}")
    return {
        "query_id": str(number),
        "query": encrypt(f"Who wrote book {number}?"),
        "answer": encrypt(f"The Writer-{number}"),
        "gold_docs": shut([gold]),
        "evidence_docs": shut([gold, extra]),
        "negative_docs": shut([document(f"n{number}-{n}") for n in range(3)] + [extra]),
    }


def all_documents() -> list[dict[str, str]]:
    own = [f"{kind}{n}" for n in range(6) for kind in ("g", "e", f"n{n}-")]
    names = [*(name + "0" if "-" in name else name for name in own), *(f"c{n}" for n in range(30))]
    return [document(name) for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browsecomp")
    (folder / "data").mkdir()
    rows = [query_row(number) for number in range(6)]
    for start in (0, 3):
        table = pyarrow.Table.from_pylist(rows[start : start + 3])
        name = f"data/test-0000{start // 3}-of-00002.parquet"
        pyarrow.parquet.write_table(table, folder / name, row_group_size=2)
    table = pyarrow.Table.from_pylist(all_documents())
    pyarrow.parquet.write_table(table, folder / "corpus.parquet", row_group_size=7)
    return folder


def config(folder: Path, **changes: Any) -> Any:
    fields = {"path": folder, "corpus_path": folder / "corpus.parquet", "canary": CANARY}
    fields |= {"rows": 6, "corpus_rows": 48, "documents": 12, "questions": 3}
    return configure("browsecomp-plus", fields | changes)


def ids_in(text: str) -> list[str]:
    return [line[7:] for line in text.splitlines() if line.startswith("DOCID: ")]


def test_contexts_hold_gold_evidence_negatives_then_others(folder: Path) -> None:
    windows = list(load("browsecomp-plus", config(folder)))
    assert len(windows) == 3
    for window in windows:
        number = window.tasks[0].meta["row"]
        names, text = ids_in(window.text()), window.text()
        own = {f"g{number}", f"e{number}", *(f"n{number}-{n}" for n in range(3))}
        assert own <= set(names) and len(names) == len(set(names)) == 12
        assert window.length == len(text.encode()) // 4
        shown = f"DOCID: g{number}\nURL: http://g{number}\nTEXT:\ntext of g{number}\n\n"
        assert shown in text
        assert window.tasks[0].question.startswith(f"Who wrote book {number}?\n\nAnswer in this")
        assert window.tasks[0].answer == f"The Writer-{number}"
    others = [frozenset(name for name in ids_in(w.text()) if name[0] == "c") for w in windows]
    assert len(set(others)) == 3, "each question draws its own"


def test_everything_follows_from_the_seed(folder: Path) -> None:
    first, again = (list(load("browsecomp-plus", config(folder))) for _ in range(2))
    assert [w.text() for w in first] == [w.text() for w in again]
    assert [w.tasks[0].id for w in first] == [w.tasks[0].id for w in again]
    ranked = sorted("012345", key=lambda name: hashlib.sha256(f"0/{name}".encode()).hexdigest())
    assert {w.tasks[0].meta["row"] for w in first} == set(ranked[:3])
    other = list(load("browsecomp-plus", config(folder, seed=1, questions=None)))
    assert len(other) == 6
    assert {w.text() for w in first}.isdisjoint(w.text() for w in other)


def test_corpus_is_not_needed_for_few_documents(folder: Path) -> None:
    asked = config(folder, documents=4, corpus_path=folder / "nowhere")
    for window in load("browsecomp-plus", asked):
        number = window.tasks[0].meta["row"]
        names = ids_in(window.text())
        assert {f"g{number}", f"e{number}"} <= set(names) and len(names) == 4
    with pytest.raises(InputError, match="set `corpus_path: FOLDER`"):
        load("browsecomp-plus", config(folder, corpus_path=folder / "nowhere"))
    with pytest.raises(InputError, match="2 gold and evidence documents, more than documents=1"):
        load("browsecomp-plus", config(folder, documents=1))


def test_counts_are_checked(folder: Path) -> None:
    with pytest.raises(InputError, match="6 rows, expected 830 of Tevatron/browsecomp-plus"):
        load("browsecomp-plus", config(folder, rows=830))
    with pytest.raises(InputError, match="48 documents, expected 100,195"):
        load("browsecomp-plus", config(folder, corpus_rows=100_195))
    with pytest.raises(InputError, match="corpus is too small for documents=60"):
        list(load("browsecomp-plus", config(folder, documents=60)))
    assert len(list(load("browsecomp-plus", config(folder, limit=2)))) == 2


def test_decrypted_text_is_not_written(folder: Path, tmp_path: Path) -> None:
    (window, *_) = load("browsecomp-plus", config(folder))
    assert window.tasks[0].meta["sealed"] is True
    with pytest.raises(InputError, match="published encrypted only and is not written to a.txt"):
        window.write(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_nobody_trains_on_decrypted_text(folder: Path) -> None:
    values = {"name": "browsecomp-plus", **config(folder).model_dump(mode="json")}
    teacher = "teacher={kind: endpoint, base_url: 'http://127.0.0.1:1/v1', model: m}"
    more = ["families={}", "lengths=[]", "keep=null", f"real={json.dumps(values)}", teacher]
    tasks = supply(load_config(GenerateConfig, THOUSAND, more))
    with pytest.raises(InputError, match="it is for evaluation only"):
        tasks.between(0, 1)


def test_canary_is_given_or_read(folder: Path, tmp_path: Path) -> None:
    script, note = tmp_path / "decrypt.py", tmp_path / "canary.txt"
    half = len(CANARY) // 2
    script.write_text(f"D = (\n    {CANARY[:half]!r}\n    {CANARY[half:]!r}\n)\nB = 'a canary'\n")
    note.write_text(CANARY + "\n")
    expected = [w.text() for w in load("browsecomp-plus", config(folder))]
    for path in (script, note):
        asked = config(folder, canary="", canary_file=path)
        assert [w.text() for w in load("browsecomp-plus", asked)] == expected


def test_missing_or_wrong_canary_is_refused_without_showing_text(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the canary is missing; set `canary:` to the string in"):
        load("browsecomp-plus", config(folder, canary=""))
    with pytest.raises(InputError, match="can't be decrypted .*check that the canary") as error:
        load("browsecomp-plus", config(folder, canary="another"))
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert CANARY not in repr(config(folder))
    path = tmp_path / "a.py"
    for text, message in (("x = 1", "holds 0 canaries"), ("x = (", "is not a Python script")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load("browsecomp-plus", config(folder, canary="", canary_file=path))
    with pytest.raises(InputError, match="can't be read .FileNotFoundError."):
        load("browsecomp-plus", config(folder, canary="", canary_file=tmp_path / "none"))


@settings(deadline=None)
@given(st.text(max_size=200))
def test_decryption_undoes_the_authors_encryption(text: str) -> None:
    told = text.encode("utf-8", "replace").decode()
    assert sealed.decrypt(encrypt(told), SECRET) == told


@pytest.mark.parametrize(
    ("answer", "exact", "inside"),
    [
        ("Explanation: it says so.\nExact Answer: the writer-1\nConfidence: 90%", 1, 1),
        ("**Exact Answer:** The Writer 1.\nConfidence: 5%", 1, 1),
        ("writer 1", 1, 1),
        ("I think the Writer-1 did", 0, 1),
        ("Exact Answer: somebody\nExplanation: not Writer-1", 0, 1),
        ("Exact Answer: Writer-12", 0, 0),
        ("", 0, 0),
    ],
)
def test_exact_match_and_its_optimistic_bound(answer: str, exact: int, inside: int) -> None:
    assert browsecomp_plus.exact_match("The Writer-1", answer) == exact
    assert browsecomp_plus.contains("The Writer-1", answer) == inside


def test_a_judge_decides_where_there_is_one(folder: Path) -> None:
    task = next(iter(load("browsecomp-plus", config(folder)))).tasks[0]
    assert score(task, "nobody").parts == {"exact_match": 0.0, "contains": 0.0}
    asked: list[tuple[str, str, str]] = []

    def judge(question: str, gold: str, answer: str) -> bool | None:
        asked.append((question, gold, answer))
        return {"yes": True, "no": False}.get(answer)

    told = [score(task, answer, Hooks(judge=judge)) for answer in ("yes", "no", "unreadable")]
    assert [one.value for one in told] == [1.0, 0.0, 0.0]
    assert {one.metric for one in told} == {"judge"} and "contains" in told[0].parts
    assert asked[0] == (task.question, task.answer, "yes")


@settings(deadline=None)
@given(st.text("aTheX -1:\n", max_size=30), st.text("aTheX -1:\n", max_size=60))
def test_containment_is_never_below_exact_match(gold: str, answer: str) -> None:
    exact, inside = (
        browsecomp_plus.exact_match(gold, answer),
        browsecomp_plus.contains(gold, answer),
    )
    assert 0.0 <= exact <= inside <= 1.0
    assert browsecomp_plus.exact_match(gold, gold) == 1.0
    assert browsecomp_plus.exact_match(gold, f"Exact Answer: {gold.strip()}".upper()) in (0.0, 1.0)
