"""The small demo, every stage of it real: what `DEMO=ci make demo` runs.

It is a test, not a step before them: half of its time one core waits (three starts of torch, one
of vLLM), which the other tests then use; ``tests/conftest.py`` has it begin first.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlm_executor.files import read_jsonl

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.real_vllm
@pytest.mark.real_trl
@pytest.mark.real_sandbox
def test_it_goes_through_every_stage_to_a_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/demo.py", "--size", "ci", "--run", str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)  # how long each stage took; pytest shows it where this fails
    assert done.returncode == 0
    assert "demo: complete" in done.stdout
    assert (tmp_path / "run" / "report.html").exists()
    status = json.loads((tmp_path / "run" / "report_status.json").read_text(encoding="utf-8"))
    assert (status["status"], status["smoke"], status["incomplete"]) == ("complete", True, [])
    results = read_jsonl(tmp_path / "run" / "eval" / "results.jsonl")
    assert not [row for row in results if row["error"]]
    assert Counter(row["arm"] for row in results) == {
        **dict.fromkeys(("direct", "direct-sft", "expert", "floor"), 16),
        **dict.fromkeys(("rlm-base", "rlm-base-1shot", "rlm-sft"), 4),
    }
