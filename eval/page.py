"""``report.html``: one self-contained page of the whole evaluation, readable without scripts.

It holds no path and no address of the machine it was made on: every text from a run is scrubbed
and escaped. Numbers come from ``summary.py``; nothing is computed here.
"""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval.results import Row
from eval.stats import Estimate
from eval.summary import CellResult, Summary, size
from rlm_executor import Trajectory
from rlm_executor.files import scrub

MESSAGE_CHARS = 3_000
TRAJECTORIES_PER_FAMILY = 3

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:1080px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}
th:first-child,td:first-child,td.text{text-align:left}thead th{border-bottom:2px solid #888}
.scroll{overflow-x:auto}.dim{color:#666;font-size:.85em}.ours td{font-weight:600}
.warn{background:#B00020;color:#fff;padding:.7rem 1rem;font-weight:600}
.holds{color:#00644B;font-weight:600}.fails{color:#B00020;font-weight:600}
img{max-width:100%}pre{background:#f6f6f6;padding:.7rem;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.85em;margin:.3rem 0}
details{margin:.4rem 0}summary{cursor:pointer}.role{font-size:.8em;color:#666;margin-top:.6rem}
"""


def page(summary: Summary, picture: bytes, journals: Path) -> str:
    """The page as text; ``journals`` is the evaluation's folder that rows name journals in."""
    image = base64.b64encode(picture).decode()
    parts = [
        f"<h1>{_escape(summary.title)}</h1>",
        *_banners(summary),
        "<h2>What was to be shown</h2>",
        _claims(summary),
        "<h2>Score against length</h2>",
        f'<img alt="score against context length, by family" src="data:image/png;base64,{image}">',
        *_scores(summary),
        "<h2>rlm-sft minus expert, task by task</h2>",
        _differences(summary),
        "<h2>What it took</h2>",
        _costs(summary),
        "<h2>Some runs in full</h2>",
        *_trajectories(summary, journals),
        "<h2>How to read this</h2>",
        _list(footnotes(summary)),
        "<details><summary>Configuration</summary><pre>",
        _escape(json.dumps(summary.config, indent=2)),
        "</pre></details>",
    ]
    head = f"<meta charset=utf-8><title>{_escape(summary.title)}</title><style>{_STYLE}</style>"
    return (
        f"<!doctype html>\n<html lang=en><head>{head}</head><body>\n"
        + "\n".join(parts)
        + ("\n</body></html>\n")
    )


def footnotes(summary: Summary) -> list[str]:
    """What a careful reader has to know, with this run's own numbers."""
    config = summary.config
    window = config["window"]
    notes = [
        "Length counts 4 bytes as a token, for every model alike." + _own_tokens(summary),
        f"direct and direct-sft see the context itself inside a window of {window:,} tokens; what "
        "does not fit is cut out of its middle. Share of the text they see: "
        + _shown(summary)
        + ". The loop's root never sees the text: only what its code prints.",
        "direct-sft is the same base fine-tuned on direct answers, at lengths that fit its window; "
        "it is the control for fine-tuning as such.",
        "rlm-base is the base in the same loop without fine-tuning, rlm-base-1shot with a solved "
        "task of the same family before the question. Both run under tighter limits "
        "(see Configuration) and on fewer tasks.",
        "expert is a hand-written program in the same loop with the same leaves: a ceiling for the "
        "root, not for the leaves; its root tokens are bytes/4 of its text, no model read them. "
        "floor guesses without reading: a random value (niah), a random "
        "valid choice (oolong), every pair of users (pairs).",
        "All models are asked greedily. Sub-calls of all runs go to one memory of answers; a call "
        "answered from it counts with its tokens, as a user alone would pay it. Seconds are wall "
        f"clock with up to {config['concurrency']} runs at a time on one machine: compare them "
        "with care.",
        "Questions share windows, so intervals treat the window as the unit: "
        + "; ".join(_methods(summary))
        + ". With five windows a cell says little by itself; read the pools.",
        "niah asks RULER's question and is scored by its rule: the share of wanted values that "
        "occur in the answer. " + _long_answers(summary),
        "A run that failed for reasons of the server or of our own sandbox counts 0 and makes this "
        "report incomplete; a run stopped by a limit is scored on what it had.",
        "Task texts are synthetic and made by this project; the scores say how far the loop "
        "carries this model, not how good the model is.",
    ]
    if summary.smoke:
        notes.insert(0, "This is a smoke run: few tasks, development seeds. Do not quote it.")
    return notes


def _banners(summary: Summary) -> Iterable[str]:
    if summary.incomplete:
        yield "<div class=warn>INCOMPLETE: not all of the stated tasks were measured.</div>"
        yield _list(summary.incomplete)
    if summary.smoke:
        yield "<p class=fails>Smoke run: its numbers are not to be quoted.</p>"


def _claims(summary: Summary) -> str:
    rows = []
    for claim in summary.claims():
        kind = "holds" if claim.verdict.startswith("holds") else "fails"
        value = claim.value
        rows.append(
            [
                _escape(claim.text),
                claim.target,
                _interval(value),
                f"{value.n} / {value.windows}" if value else "",
                f"<span class={kind}>{claim.verdict}</span>",
                f"<span class=dim>{value.method if value else ''}</span>",
            ]
        )
    return _table(["claim", "target", "measured", "tasks / windows", "verdict", "method"], rows)


def _scores(summary: Summary) -> Iterable[str]:
    for family in summary.families:
        lengths = summary.lengths(family)
        rows, classes = [], []
        for arm in summary.arms:
            cells = [summary.cell(arm, family, length) for length in lengths]
            pooled, slope = summary.pooled(arm, family), summary.trend(arm, family)
            rows.append(
                [
                    _escape(arm),
                    *(_score_cell(cell) for cell in cells),
                    _interval(pooled),
                    _interval(slope, signed=True),
                ]
            )
            classes.append("ours" if arm == "rlm-sft" else "")
        yield f"<h2>{_escape(family)}</h2>"
        heads = ["arm", *map(size, lengths), "pooled", "change per doubling"]
        yield _table(heads, rows, classes)


def _score_cell(cell: CellResult | None) -> str:
    if cell is None:
        return ""
    small = f"n {len(cell.rows)}"
    if cell.measured < cell.stated:
        small = f"<span class=fails>{cell.measured} of {cell.stated} measured</span>"
    method = f' title="{_escape(cell.score.method)}"' if cell.score else ""
    return f"<span{method}>{_interval(cell.score)}</span><br><span class=dim>{small}</span>"


def _differences(summary: Summary) -> str:
    rows = []
    for family in summary.families:
        for length in [*summary.lengths(family), None]:
            lengths = {length} if length else set(summary.lengths(family))
            value = summary.difference("rlm-sft", "expert", family=family, lengths=lengths)
            if value is None:
                continue
            rows.append(
                [
                    f"{_escape(family)} {size(length) if length else '(all)'}",
                    _interval(value, signed=True),
                    f"{value.n} / {value.windows}",
                    f"<span class=dim>{value.method}</span>",
                ]
            )
    if not rows:
        return "<p>Not in this grid.</p>"
    return _table(["cell", "difference", "tasks / windows", "method"], rows)


def _costs(summary: Summary) -> str:
    rows = []
    for cell in summary.cells:
        if not cell.rows:
            continue
        stops = Counter(row["stop_reason"] for row in cell.rows)
        shown = cell.mean("shown_share")
        rows.append(
            [
                f"{_escape(cell.arm)} · {_escape(cell.family)} {size(cell.length)}",
                _number(cell.mean("tokens_root")),
                _number(cell.mean("tokens_sub")),
                _number(cell.mean("calls")),
                _number(cell.mean("cached_calls")),
                f"{cell.mean('turns'):.1f}",
                f"{cell.mean('error_cells'):.1f}",
                f"{cell.mean('seconds'):.1f}",
                "" if shown is None else f"{shown:.2%}" if shown < 0.1 else f"{shown:.0%}",
                "<span class=dim>"
                + ", ".join(f"{_escape(stop)} {count}" for stop, count in stops.most_common())
                + "</span>",
            ]
        )
    heads = "cell,root tokens,sub tokens,calls,of them from memory,turns,error cells,seconds"
    table = _table([*heads.split(","), "text seen", "ended by"], rows)
    return f"<details><summary>Means per task, {len(rows)} cells</summary>{table}</details>"


def _trajectories(summary: Summary, journals: Path) -> Iterable[str]:
    for row in chosen_runs(summary):
        path = journals / "journals" / str(row["journal"])
        text = _transcript(path)
        if text is None:
            continue
        yield (
            f"<details><summary>{_escape(row['arm'])} · {_escape(row['family'])} "
            f"{size(row['length'])} · score {row['score']:.2f} · {row['turns']} turns · "
            f"{_escape(row['stop_reason'])}</summary>{text}"
            f"<div class=role>answer ({row['answer_chars']:,} characters)</div>"
            f"<pre>{_escape(_cut(row['answer']))}</pre></details>"
        )


def chosen_runs(summary: Summary) -> list[Row]:
    """A best and a worst run of ours at the longest length, and one of the base, a family."""
    chosen: list[Row] = []
    for family in summary.families:
        longest = max(summary.lengths(family))
        cell = summary.cell("rlm-sft", family, longest)
        ours = [row for row in cell.rows if row["journal"]] if cell else []
        ours.sort(key=lambda row: -float(row["score"]))
        base = [
            row
            for arm in summary.arms
            if arm.startswith("rlm-base")
            for row in summary.rows(arm, family)
            if row["journal"]
        ]
        found = [*ours[:1], *(ours[-1:] if len(ours) > 1 else []), *base[-1:]]
        chosen += found[:TRAJECTORIES_PER_FAMILY]
    return chosen


def _transcript(path: Path) -> str | None:
    if not path.exists():
        return None
    turns = Trajectory.read(path).turns
    if not turns:
        return None
    messages = [*turns[-1][0], {"role": "assistant", "content": turns[-1][1]}]
    return "".join(
        f"<div class=role>{_escape(message['role'])}</div>"
        f"<pre>{_escape(_cut(message['content']))}</pre>"
        for message in messages
    )


def _own_tokens(summary: Summary) -> str:
    ratio = summary.bytes_per_token
    if ratio is None:
        return ""
    return (
        f" The base's own tokenizer has {ratio:.1f} bytes a token on these texts, so its window "
        f"of {summary.config['window']:,} holds {summary.window_length:,.0f} tokens of this count; "
        "there the picture has its dashed line."
    )


def _shown(summary: Summary) -> str:
    shares = []
    for family in summary.families:
        for length in summary.lengths(family):
            cell = summary.cell("direct", family, length)
            share = cell.mean("shown_share") if cell else None
            if share is not None:
                shares.append(f"{family} {size(length)} {share:.2%}")
    return ", ".join(shares) or "not measured"


def _methods(summary: Summary) -> list[str]:
    methods = {cell.score.method.split(", n/")[0] for cell in summary.cells if cell.score}
    said = {
        "Wilson": "Wilson intervals for 0/1 scores, n divided by the design effect where windows "
        "differ",
        "bootstrap over windows": "a bootstrap over whole windows for fractional scores",
    }
    return [said.get(method, method) for method in sorted(methods)] + [
        "t with windows - 1 degrees of freedom for paired differences"
    ]


def _long_answers(summary: Summary) -> str:
    rows = [row for arm in summary.arms for row in summary.rows(arm, "niah")]
    longest = max((row["answer_chars"] for row in rows), default=0)
    over = sum(row["answer_chars"] > 1_000 for row in rows)
    return (
        "An answer that pours out the context would pass; the longest niah answer here has "
        f"{longest:,} characters, {over} are above 1,000."
    )


def _interval(value: Estimate | None, signed: bool = False) -> str:
    if value is None:
        return "–"
    sign = "+" if signed else ""
    return (
        f"{value.mean:{sign}.2f} <span class=dim>[{value.low:{sign}.2f}, "
        f"{value.high:{sign}.2f}]</span>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    body = [
        f'<tr class="{classes[index] if index < len(classes) else ""}">'
        + "".join(f"<td>{value}</td>" for value in row)
        + "</tr>"
        for index, row in enumerate(rows)
    ]
    head = "".join(f"<th>{_escape(name)}</th>" for name in heads)
    return (
        f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>"
        + "".join(body)
        + "</tbody></table></div>"
    )


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_escape(item)}</li>" for item in items) + "</ul>"


def _cut(text: str) -> str:
    if len(text) <= MESSAGE_CHARS:
        return text
    return f"{text[:MESSAGE_CHARS]}\n... [cut: {len(text):,} characters in all]"


def _escape(text: object) -> str:
    return html.escape(scrub(str(text)))
