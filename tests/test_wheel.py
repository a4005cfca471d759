"""The wheel alone: built from the clone, installed into a bare environment, used for one answer."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USE = r'''
import importlib.util
from rlm_executor import RLM, Context, RLMCard, ScriptedLM

for stage in ("data_gen", "train", "serve", "eval", "torch", "transformers", "vllm"):
    assert importlib.util.find_spec(stage) is None, stage
reply = """```repl
name = llm_query("Who owns it? " + context[:40])
answer["content"] = f"{name}, {len(context)}"
answer["ready"] = True
```"""
rlm = RLM(ScriptedLM(lambda _: reply), ScriptedLM(lambda _: "Mara"), RLMCard())
result = rlm.complete("Who owns the boat, and how long is it?", Context.from_text("x" * 100000))
assert (result.answer, result.stop_reason) == ("Mara, 100000", "answered"), result
print(result.answer)
'''


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.real_sandbox
def test_installed_alone_it_completes_a_scripted_run(tmp_path):
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("rlm_executor-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rlm_executor"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    bare = tmp_path / "bare"
    run(sys.executable, "-m", "venv", "--without-pip", bare, cwd=tmp_path)
    # The pip of this environment installs into the bare one, which saves it a pip of its own.
    pins = ("-c", ROOT / "constraints" / "cpu.txt")
    python = bare / "bin" / "python"
    run(*pip, "--python", python, "install", "--quiet", *pins, wheel, cwd=tmp_path)
    assert run(python, "-I", "-c", USE, cwd=tmp_path) == "Mara, 100000\n"
