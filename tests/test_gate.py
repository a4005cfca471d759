"""The gate must fail a run for an unlisted skip and for a real part that no test touched."""

import shutil
import subprocess
import sys
from pathlib import Path

GATE = Path(__file__).with_name("gate.py")
INI = """[pytest]
markers =
    real_vllm: x
    real_trl: x
    real_sandbox: x
"""


def run(folder: Path, tests: str, allowed: str = "", *options: str) -> tuple[int, str]:
    """Run pytest with the gate over one file of tests; exit code and output."""
    (folder / "tests").mkdir()
    shutil.copy(GATE, folder / "tests" / "gate.py")
    (folder / "tests" / "allowed_skips.txt").write_text(allowed)
    (folder / "tests" / "test_it.py").write_text("import pytest\n" + tests)
    (folder / "pytest.ini").write_text(INI)
    command = [sys.executable, "-m", "pytest", "-p", "tests.gate", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


SKIP = "def test_a(): pytest.skip('no GPU')\ndef test_b(): pass\n"


def test_unlisted_skip_fails(tmp_path):
    code, output = run(tmp_path, SKIP)
    assert code == 1
    assert "tests/test_it.py::test_a (Skipped: no GPU)" in output


def test_listed_skip_passes(tmp_path):
    code, _ = run(tmp_path, SKIP, "tests/test_it.py::test_a: needs a GPU\n")
    assert code == 0


def test_skipped_module_and_expected_failure_count_as_skips(tmp_path):
    code, output = run(tmp_path, "@pytest.mark.xfail\ndef test_a(): assert 0\n")
    assert code == 1 and "test_a" in output
    shutil.rmtree(tmp_path / "tests")
    code, output = run(tmp_path, "pytest.importorskip('no_such')\n", "", "-rs")
    assert code != 0 and "gate: skipped" in output


def test_reason_is_required(tmp_path):
    code, output = run(tmp_path, SKIP, "tests/test_it.py::test_a\n")
    assert code != 0 and "no reason given" in output


def test_real_parts_are_counted_and_required(tmp_path):
    tests = "@pytest.mark.real_vllm\ndef test_a(): pass\n"
    code, output = run(tmp_path, tests, "", "--gate")
    assert code == 1
    assert (
        "1 tests went through real vLLM, 0 through real TRL, 0 through the real sandbox" in output
    )
    assert "gate: no test went through real TRL" in output
