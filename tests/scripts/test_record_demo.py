"""What a recorded demo tells readers besides its scores."""

import pytest

from rlm_executor.errors import InputError
from scripts.record_demo import put, told


def test_told_counts_what_was_seen():
    effort = {
        "sft": {"rows": 2000, "steps": 500, "epochs": 1.5, "target_tokens": 300_000},
        "direct-sft": {"rows": 1000, "steps": 40, "epochs": 0.25, "target_tokens": 40_002},
    }
    assert told(effort, {"sft": 601.4, "direct-sft": 59.6, "eval": 5.0}) == (
        "Tuning: `rlm-sft` 500 steps in 601 s, 3,000 rows, 450,000 trained tokens; "
        "`direct-sft` 40 steps in 60 s, 250 rows, 10,000 trained tokens."
    )


def test_put_replaces_only_its_own_part(tmp_path):
    path = tmp_path / "README.md"
    begin = "<!-- demo: from scripts/record_demo.py -->"
    path.write_text(f"before\n{begin}\nold\nlines\n<!-- /demo -->\nafter\n")
    put(path, "demo", r"new \1")
    assert path.read_text() == f"before\n{begin}\nnew \\1\n<!-- /demo -->\nafter\n"


def test_put_refuses_a_file_without_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("no markers\n")
    with pytest.raises(InputError, match=r"README\.md has no lines"):
        put(path, "demo", "new")
    assert path.read_text() == "no markers\n"
