"""scripts/setup.py against a package index of its own: a folder of tiny wheels, no network.

The wheels bear the names of the real stack, so that every branch runs in seconds: the choice of
torch, the misfits, repair after a kill, and each fault as one line with exit code 2.
"""

import ast
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPU = {
    "torch": ("2.13.0+cpu", [], ""),
    "vllm": ("0.32.0", ["torchvision"], ""),
    "torchvision": ("0.28.0", [], ""),
    "transformers": ("5.19.0", [], "class Qwen3ForCausalLM: pass\n"),
    "trl": ("1.16.0", [], ""),
    "peft": ("0.21.2", [], ""),
}
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "rlm-executor"
version = "0"
[project.optional-dependencies]
cpu = ["torch==2.13.0", "vllm", "transformers", "trl", "peft"]
dev = []
"""
# A build backend of one wheel without contents, so that nothing has to be fetched to build.
BACKEND = """
import os, sys
sys.path.insert(0, os.path.dirname(__file__))
from wheels import write_wheel
NEEDS = ['torch==2.13.0; extra == "cpu"'] + [
    f'{name}; extra == "cpu"' for name in ("vllm", "transformers", "trl", "peft")
]
def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, "rlm-executor", "0", NEEDS, "", extras=["cpu", "dev"])
build_wheel = build_editable
"""


def write_wheel(folder, name, version, needs, code, extras=()):
    """A wheel of one module; the file name."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {need}" for need in needs]
    files = {
        f"{module}.py": code,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    wheel = f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory):
    """A virtual environment that the tests copy, since making one takes many seconds."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def clone(tmp_path, empty_venv):
    """A clone with the real scripts, an index of tiny wheels in ``wheels/`` and a bare .venv."""
    root = tmp_path / "clone"
    (root / "scripts").mkdir(parents=True)
    (root / "constraints").mkdir()
    (root / "wheels").mkdir()
    shutil.copytree(empty_venv, root / ".venv", symlinks=True)
    for name in ("setup.py", "require_python.py"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    # The backend runs in pip's own process, which knows nothing of this module.
    source = Path(__file__).read_text()
    start, end = source.index("def write_wheel"), source.index("@pytest.fixture")
    imports = "import hashlib, zipfile\nfrom base64 import urlsafe_b64encode\n"
    (root / "wheels.py").write_text(imports + "from pathlib import Path\n" + source[start:end])
    pins = [f"{name}=={version}" for name, (version, _, _) in CPU.items() if name != "torchvision"]
    (root / "constraints" / "cpu.txt").write_text("\n".join(pins) + "\n")
    for name, (version, needs, code) in CPU.items():
        write_wheel(root / "wheels", name, version, needs, code)
    return root


def environment(clone, **changes):
    """No configured index, no GPU in sight, only the clone's wheels."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "STACK": "cpu"}
    own["PIP_FIND_LINKS"] = str(clone / "wheels")
    return {**keep, **own, **changes}


def setup(clone, python=sys.executable, **changes):
    """Run the script; the finished process."""
    command = [python, clone / "scripts" / "setup.py"]
    return subprocess.run(
        command, env=environment(clone, **changes), capture_output=True, text=True, timeout=300
    )


def one_line(process):
    """The single line of an error for a person."""
    assert process.returncode == 2, process.stdout + process.stderr
    lines = process.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), process.stderr
    return lines[0]


def installed(clone):
    """Names that .venv holds."""
    listing = subprocess.run(
        [clone / ".venv/bin/python", "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        env=environment(clone),
    )
    return {line.partition("==")[0] for line in listing.stdout.split()}


def test_goes_on_after_a_kill_then_has_nothing_to_do_then_mends(clone):
    shutil.rmtree(clone / ".venv")
    process = subprocess.Popen(
        [sys.executable, clone / "scripts/setup.py"], env=environment(clone), stdout=-1, text=True
    )
    for line in process.stdout:
        if line.startswith("[3/4]"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = setup(clone)  # waits for the orphaned pip, if it still runs
    assert again.returncode == 0, again.stdout + again.stderr
    assert "CPU stack" in again.stdout and "[4/4]" in again.stdout
    assert {"torch", "vllm", "trl", "rlm-executor"} <= installed(clone)
    assert "torchvision" not in installed(clone)

    assert setup(clone).stdout == "setup: .venv is up to date (CPU stack)\n"

    site = next((clone / ".venv/lib").glob("python*/site-packages"))
    (site / "trl.py").unlink()
    with (clone / "constraints" / "cpu.txt").open("a") as constraints:
        constraints.write("# another input, so it has to look again\n")
    mended = setup(clone)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "trl==1.16.0" in mended.stdout and (site / "trl.py").exists()


def test_up_to_date_within_a_second(clone):
    stamp = f'{{"stack": "cpu", "fingerprint": "{fingerprint(clone)}"}}'
    (clone / ".venv" / "setup.json").write_text(stamp)
    started = time.process_time()
    children = os.times().children_user + os.times().children_system
    assert "up to date" in setup(clone).stdout
    spent = os.times().children_user + os.times().children_system - children
    assert spent + time.process_time() - started < 1  # of the processor: the machine may be busy


def fingerprint(clone):
    """What setup.py must find in its stamp."""
    inputs = [clone / "pyproject.toml", clone / "constraints" / "cpu.txt"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()


def test_torch_comes_from_torch_index_when_pip_finds_none(clone):
    index = clone / "index" / "torch"
    index.mkdir(parents=True)
    wheel = next((clone / "wheels").glob("torch-*"))
    shutil.move(wheel, index / wheel.name)
    (index / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    write_wheel(clone / "wheels", "torch", "2.13.0", [], "raise ImportError('the CUDA build')")
    unset = setup(clone, TORCH_INDEX="", PIP_NO_INDEX="0", PIP_INDEX_URL=(clone / "none").as_uri())
    assert "set TORCH_INDEX" in one_line(unset)
    url = (clone / "index").as_uri()
    given = setup(clone, TORCH_INDEX=url, PIP_NO_INDEX="0", PIP_INDEX_URL=(clone / "none").as_uri())
    assert given.returncode == 0, given.stdout + given.stderr
    assert "taking it from TORCH_INDEX" in given.stdout


def test_no_network(clone):
    shutil.rmtree(clone / "wheels")
    nowhere = "http://127.0.0.1:9/simple"  # the discard port: refused at once
    process = setup(clone, PIP_NO_INDEX="0", PIP_INDEX_URL=nowhere, PIP_RETRIES="1")
    assert "no package index can be reached" in one_line(process)


def test_full_disk(clone):
    """A real small file system, in a mount namespace of its own."""
    script = 'mount -t tmpfs -o size=2m none "$1" && cp -r "$2/." "$1" && exec "$3" "$1/$4"'
    shutil.rmtree(clone / ".venv")
    (clone.parent / "disk").mkdir()
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", clone.parent / "disk", clone, sys.executable]
        + ["scripts/setup.py"],
        env=environment(clone),
        capture_output=True,
        text=True,
    )
    assert "GB free" in one_line(process) and "free some space" in process.stderr


def test_unknown_stack(clone):
    assert "STACK=tpu is unknown" in one_line(setup(clone, STACK="tpu"))


@pytest.mark.parametrize("name", ["setup.py", "demo.py", "require_python.py"])
def test_parses_on_python_3_6(name):
    ast.parse((ROOT / "scripts" / name).read_text(), feature_version=(3, 6))


def old_pythons():
    """Interpreters on this machine that are too old, if any."""
    places = [
        *Path.home().glob(".pyenv/versions/3.*/bin/python"),
        *Path("/usr/bin").glob("python3"),
    ]
    ask = "import sys; sys.exit(not (3, 6) <= sys.version_info[:2] < (3, 11))"
    return [str(p) for p in places if subprocess.run([p, "-c", ask], check=False).returncode == 0]


@pytest.mark.parametrize("script", ["setup.py", "demo.py"])
def test_old_python_says_so(script):
    # One that pretends to be old always runs; really old ones too, where there are any.
    pretend = (
        "import runpy, sys; sys.version_info = (3, 8, 0, 'final', 0); sys.path[0] = sys.argv[1];"
    )
    pretend += "runpy.run_path(sys.argv[2], run_name='__main__')"
    path = ROOT / "scripts" / script
    commands = [[sys.executable, "-c", pretend, str(path.parent), str(path)]]
    commands += [[python, str(path)] for python in old_pythons()]
    for command in commands:
        process = subprocess.run(command, capture_output=True, text=True)
        line = one_line(process)
        assert "this is Python 3." in line and "3.11 to 3.14 are supported" in line
