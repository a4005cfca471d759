"""What a stranger finds: no traces of a machine, commands that exist, clean artefacts."""

import importlib.util
import re
import shlex
import socket
import subprocess
from functools import cache
from pathlib import Path

import pyarrow.parquet

ROOT = Path(__file__).resolve().parents[1]
# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.~$})-])/(?:work|root|tmp)" + r"/\w")
INDEX_HOST = re.compile(r"(?:py" + r"pi|pythonhosted|py" + r"torch|npmjs|debian)\.(?:org|com)")
STRAY_NOTE = re.compile(r"\.\./" + r"shared|\bissue #?\d+")
LARGEST = 16 * 2**20
TARGETS = "setup demo data train serve eval merge push view test lint clean help".split()


def tracked() -> list[str]:
    """Files of the repository."""
    listing = ["git", "ls-files", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@cache
def texts() -> dict[str, str]:
    """Tracked text files by name."""
    found = {}
    for name in tracked():
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """``file:line: text`` of every match in tracked files."""
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_path_of_a_machine():
    assert lines_with(MACHINE_PATH) == []


def test_package_indexes_are_named_nowhere_but_as_torch_index():
    allowed = "Makefile:"
    found = [line for line in lines_with(INDEX_HOST) if not line.startswith(allowed)]
    assert found == []
    assert [line.split()[1] for line in lines_with(INDEX_HOST)] == ["TORCH_INDEX"]


def test_no_notes_of_how_it_was_made():
    assert lines_with(STRAY_NOTE) == []


def test_no_large_file():
    assert [name for name in tracked() if (ROOT / name).stat().st_size > LARGEST] == []


def test_module_names():
    vague = {"utils", "helpers", "common", "misc"}
    assert [name for name in tracked() if Path(name).stem in vague] == []


def makefile_targets() -> set[str]:
    """Names that `make` accepts."""
    return set(re.findall(r"^([a-z-]+%?):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_makefile_has_its_targets_and_each_runs_setup_first():
    assert set(TARGETS) | {"bench-%"} <= makefile_targets()
    needs = dict(re.findall(r"^([a-z-]+%?): ?(\w*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in {*TARGETS, "bench-%"} - {"setup", "clean", "help"}:
        assert needs[target] in ("setup", "lint"), target  # lint needs setup itself
    assert len((ROOT / "Makefile").read_text().splitlines()) <= 72


def test_every_make_command_that_is_mentioned_exists():
    mentioned = {
        (name, target)
        for name, text in texts().items()
        for target in re.findall(r"`make (?:[A-Z]+=\S+ )*([a-z-]+)", text)
        if target in TARGETS or not name.startswith("tests/")
    }
    known = makefile_targets()
    assert [m for m in mentioned if m[1] not in known and not m[1].startswith("bench-")] == []


def shell_lines(text: str) -> list[str]:
    """Commands in the ```sh blocks of a Markdown text, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_readme_commands_exist():
    commands = shell_lines((ROOT / "README.md").read_text())
    assert any(line.startswith("make demo") for line in commands)
    for line in commands:
        words = shlex.split(line, comments=True)
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        for flag, value in zip(words, words[1:], strict=False):
            if flag in ("--config", "--config_file"):
                assert (ROOT / value).is_file(), line
            if flag == "-m" and value.split(".")[0] != "pytest":
                assert importlib.util.find_spec(value), line
        for word in words:
            if word.endswith(".py"):
                assert (ROOT / word).is_file(), line
        if words and words[0] == "make":
            assert set(words[1:]) <= makefile_targets(), line


def test_readme_leads_to_a_command_and_to_files_that_exist():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in "\n".join(text.splitlines()[:40])
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in linked if not (ROOT / target).exists()] == []


def artefacts(run: Path) -> list[Path]:
    """What a run leaves for others: not its logs, nor what it hides."""
    files = (path for path in run.rglob("*") if path.is_file())
    hidden = (path for path in files if not any(p[0] == "." for p in path.relative_to(run).parts))
    return [path for path in hidden if "logs" not in path.relative_to(run).parts]


def words_of(path: Path) -> bytes:
    """All that can be read in a file; of a table, its cells."""
    if path.suffix == ".parquet":
        return repr(pyarrow.parquet.read_table(path).to_pylist()).encode()
    return path.read_bytes()


def test_artefacts_of_runs_name_no_machine():
    host = socket.gethostname().encode()
    names = [str(ROOT).encode(), str(Path.home()).encode() + b"/"]
    names += [host] if len(host) > 5 and host != b"localhost" else []
    traces = [
        (str(path.relative_to(ROOT)), name)
        for run in (ROOT / "runs").glob("*/")
        for path in artefacts(run)
        if path.suffix not in (".png", ".safetensors")
        for name in names
        if name in words_of(path)
    ]
    assert traces == []
