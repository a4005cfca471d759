"""The prompt texts of the package ``rlms``, taken from its wheel when they are needed.

    python -m rlm_executor.rlms_texts 0.1.3 [--wheel FILE]

Models trained with ``rlms`` know its words. These are not ours, so this project holds none of
them: it knows the versions and the sha256 of their files, runs the wheel's own functions on
sentinels in a process of its own, and keeps what they say in the user's cache
(``$XDG_CACHE_HOME`` or ``~/.cache``, folder ``rlm_executor``).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rlm_executor.cli import run_cli
from rlm_executor.errors import EnvironmentFault, InputError
from rlm_executor.files import sha256_file, write_json_atomic

_FETCH_SECONDS = 120
_RUN_SECONDS = 60


@dataclass(frozen=True)
class RlmsTexts:
    """Templates for ``str.format``, but for the system message, which is as it is sent.

    {question}; {type}, {chars} and {lengths} of the context; {turn} of {turns}.
    """

    system: str
    metadata_role: str
    metadata: str  # what the context is; with the question where ``rlms`` tells it there
    metadata_bare: str  # without a question
    turn_role: str
    first: str  # asks for the first turn
    first_bare: str
    later: str  # asks for another
    later_bare: str
    landing_role: str
    landing: str  # asks for the answer when no turn is left


@dataclass(frozen=True)
class _Release:
    """What is known of a version: sha256 of its wheel, and of the files that are run."""

    wheel: str
    files: dict[str, str]


_RELEASES = {
    "0.1.1": _Release(
        "3dff7d40013065ef62d57deb50e2578ba658045829ed340f94de9b59a49d5369",
        {
            "rlm/core/rlm.py": "9f729486433f70f93b5a27f91d75db288431164321ee3a2898a85e75c2be4559",
            "rlm/core/types.py": "ba1fc48690c4ad68d693bd30bf751302c93a9de8f772cd25bf6cb28cd97e33e6",
            "rlm/environments/base_env.py": (
                "b3706fe28fe86c7c04e48c857a39278207b055d782a60214f7f13711337f9565"
            ),
            "rlm/utils/prompts.py": (
                "8df77e9f0186abd5dcb8ba13695c7896771727e206958fe2819354ff1ccfeb71"
            ),
        },
    ),
    "0.1.3": _Release(
        "fac541ff745242540fee47b6e41a74c847fd7022091330dad7844d413eb5944f",
        {
            "rlm/core/rlm.py": "f7df6af55027159b2f428ff98c9b19beb872618ee88aa8fef62c9498fa1e0562",
            "rlm/core/types.py": "eef76a1a8cf977475ac6f34bd25a8f8139bf05ab6c3b36f3578a1b6b9b0385c5",
            "rlm/environments/base_env.py": (
                "288a7a08707783cd4116cccf1c7ebd77a5b577e3cb2a9febeb1ef67cf5c4e15b"
            ),
            "rlm/utils/prompts.py": (
                "579c8ef220739f691d3896257b8289eec7e7b634fe473f41dea4adb83560b47e"
            ),
        },
    ),
}
VERSIONS = tuple(_RELEASES)


def rlms_texts(version: str, wheel: Path | None = None) -> RlmsTexts:
    """The texts of a version: from the cache, a given wheel, the installed package, or the index.

    Raises:
        InputError: no such version, or the wheel is not its wheel.
        EnvironmentFault: it can't be fetched, run or kept.
    """
    release = _release(version)
    kept = cache_folder() / f"rlms-{version}.json"
    known = hashlib.sha256(json.dumps([*release.files.values(), _TELL]).encode()).hexdigest()
    if wheel is None and kept.is_file():
        try:
            told = json.loads(kept.read_bytes())
            if told["made_from"] == known:  # of these files, in this way
                return RlmsTexts(**told["texts"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # damaged: it is made again
    files = _installed(version) if wheel is None else None
    if files is None:
        with zipfile.ZipFile(rlms_wheel(version, wheel)) as archive:
            files = {name: archive.read(name) for name in release.files}
    texts = _tell(version, files)
    with _cached():
        write_json_atomic(kept, {"made_from": known, "texts": asdict(texts)})
    return texts


def rlms_wheel(version: str, wheel: Path | None = None) -> Path:
    """A version's wheel, known by its sha256: the given one, or the cached one, or fetched.

    Raises:
        InputError: no such version, or the given file is not its wheel.
        EnvironmentFault: it can't be fetched or kept.
    """
    expected = _release(version).wheel
    if wheel is not None:
        if not wheel.is_file() or sha256_file(wheel) != expected:
            raise InputError(
                f"{wheel} is not the wheel of rlms {version} (sha256 {expected[:12]}...); give "
                "that file, or none and let pip fetch it"
            )
        return wheel
    kept = cache_folder() / f"rlms-{version}-py3-none-any.whl"
    if kept.is_file() and sha256_file(kept) == expected:
        return kept
    help_text = (
        f"give its wheel (python -m rlm_executor.rlms_texts {version} --wheel FILE), or install "
        f"rlms=={version}"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", folder]
        try:
            done = subprocess.run(
                [*command, f"rlms=={version}"],
                capture_output=True,
                text=True,
                timeout=_FETCH_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentFault(
                f"rlms {version} could not be fetched ({error}); {help_text}"
            ) from error
        found = [*Path(folder).glob("*.whl")]
        if done.returncode or len(found) != 1:
            why = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
            raise EnvironmentFault(f"rlms {version} could not be fetched ({why}); {help_text}")
        if sha256_file(found[0]) != expected:
            raise InputError(
                f"what pip fetched is not rlms {version} as it is known here (sha256 differs); "
                + help_text
            )
        with _cached():
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f".{kept.name}.{os.getpid()}.partial")
            shutil.copyfile(found[0], partial)
            partial.replace(kept)
    return kept


def cache_folder() -> Path:
    """Where texts and wheels are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "rlm_executor"


@contextlib.contextmanager
def _cached() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"the cache {cache_folder()} cannot be written ({error.strerror}); set XDG_CACHE_HOME "
            "to a folder that can"
        ) from error


def _release(version: str) -> _Release:
    if version not in _RELEASES:
        raise InputError(f"rlms {version} is not known here; known: {', '.join(VERSIONS)}")
    return _RELEASES[version]


def _installed(version: str) -> dict[str, bytes] | None:
    """The files of the installed package, if it is that version; they are not imported."""
    try:
        package = importlib.metadata.distribution("rlms")
        if package.version != version:
            return None
        files = {name: package.locate_file(name) for name in _RELEASES[version].files}
        return {name: Path(str(path)).read_bytes() for name, path in files.items()}
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None


def _tell(version: str, files: dict[str, bytes]) -> RlmsTexts:
    """Run the functions of those files, if they are the known ones."""
    for name, expected in _RELEASES[version].files.items():
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise InputError(
                f"{name} of rlms {version} is not the one known here (sha256 differs); give the "
                f"released wheel: python -m rlm_executor.rlms_texts {version} --wheel FILE"
            )
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        command = [sys.executable, "-I", "-X", "utf8", "-c", _TELL, folder]
        try:
            done = subprocess.run(command, capture_output=True, check=True, timeout=_RUN_SECONDS)
            return RlmsTexts(**json.loads(done.stdout))
        except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
            raise EnvironmentFault(
                f"the prompts of rlms {version} could not be run ({error}); please report this "
                "with the version of Python"
            ) from error


# Run in a process of its own. The parent packages are empty modules, so nothing of them, and no
# client library, is imported.
_TELL = r"""
import ast, inspect, json, sys, types
from pathlib import Path
from types import SimpleNamespace

folder = Path(sys.argv[1])
for name in ("rlm", "rlm.core", "rlm.utils", "rlm.environments"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(folder.joinpath(*name.split(".")))]
from rlm.utils import prompts

NAMES = ("question", "type", "chars", "lengths", "turn", "turns")
MARK = {name: f"\x02{name}\x03" for name in NAMES}


class Lengths(list):
    def __str__(self):
        return MARK["lengths"]


class Iteration(int):
    def __add__(self, other):
        return MARK["turn"]


def call(function, **arguments):
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})


def template(text):
    text = text.replace("{", "{{").replace("}", "}}")
    for name, mark in MARK.items():
        text = text.replace(mark, "{" + name + "}")
    assert "\x02" not in text
    return text


def opening(question):
    metadata = SimpleNamespace(
        context_type=MARK["type"],
        context_total_length=MARK["chars"],
        context_lengths=Lengths(),
    )
    system, told = call(
        prompts.build_rlm_system_prompt,
        system_prompt=prompts.RLM_SYSTEM_PROMPT,
        query_metadata=metadata,
        root_prompt=question,
    )
    assert system["role"] == "system" and "\x02" not in system["content"]
    return system["content"], told


def turn(question, iteration):
    return call(
        prompts.build_user_prompt,
        root_prompt=question,
        iteration=Iteration(iteration),
        max_iterations=MARK["turns"],
    )


def landing():
    tree = ast.parse(folder.joinpath("rlm", "core", "rlm.py").read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name == "_default_answer":
            (message,) = [node for node in ast.walk(function) if isinstance(node, ast.Dict)]
            return ast.literal_eval(message)


asked = MARK["question"]
system, told = opening(asked)
last = landing()
texts = {
    "system": system,
    "metadata_role": told["role"],
    "metadata": template(told["content"]),
    "metadata_bare": template(opening(None)[1]["content"]),
    "turn_role": turn(asked, 0)["role"],
    "first": template(turn(asked, 0)["content"]),
    "first_bare": template(turn(None, 0)["content"]),
    "later": template(turn(asked, 1)["content"]),
    "later_bare": template(turn(None, 1)["content"]),
    "landing_role": last["role"],
    "landing": template(last["content"]),
}
sys.stdout.write(json.dumps(texts))
"""


def main() -> int:
    """Put a version's texts into the cache."""
    parser = argparse.ArgumentParser(prog="rlm_executor.rlms_texts", description=main.__doc__)
    parser.add_argument("version", help=" or ".join(VERSIONS))
    parser.add_argument("--wheel", type=Path, help="its file, where pip can't fetch it")
    given = parser.parse_args()
    texts = rlms_texts(given.version, given.wheel)
    print(f"rlms {given.version}: {len(texts.system)} characters of system prompt, kept in")
    print(cache_folder() / f"rlms-{given.version}.json")
    return 0


if __name__ == "__main__":
    run_cli(main)
