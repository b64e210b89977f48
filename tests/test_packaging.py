"""The package as users install it: from a built wheel and as an editable install of the source tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "gta_datasets", "adapters"]
OPTIONAL = [
    "accelerate",
    "d3rlpy",
    "faiss",
    "gymnasium_robotics",
    "matplotlib",
    "mujoco",
    "pandas",
    "pyarrow",
    "ray",
    "scipy",
    "stable_baselines3",
    "torchrl",
]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(source: Path, hook: str, into: Path) -> Path:
    """Call a PEP 517 hook of setuptools; the wheel it made."""
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    run(sys.executable, "-W", "ignore", "-c", code, into, cwd=source)
    (wheel,) = into.glob("*.whl")
    return wheel


def install(wheel: Path, into: Path) -> Path:
    """Install a wheel alone in a new environment that borrows this one's other packages; its interpreter."""
    venv.create(into, symlinks=True)
    python = into / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=into)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=into).strip()
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that nothing is written into the repository."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "build_wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("from_wheel"))


@pytest.fixture(scope="module")
def editable_python(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel = build(source, "build_editable", tmp_path_factory.mktemp("editable_wheel"))
    return install(wheel, tmp_path_factory.mktemp("editable"))


def origins(python: Path, *modules: str) -> list[str]:
    """Where an interpreter, started outside the repository, would import the modules from ("None" if it cannot)."""
    code = (
        "import sys, importlib.util as u\n"
        "for name in sys.argv[1:]:\n"
        "    spec = u.find_spec(name)\n"
        "    print(spec and spec.origin)"
    )
    return run(python, "-I", "-c", code, *modules, cwd=python.parent).split()


def test_wheel_imports_the_adapters_inside_the_package(wheel_python: Path) -> None:
    package, adapters, top_level = origins(wheel_python, "gta_datasets", "gta_datasets.adapters", "adapters")
    assert Path(package).is_relative_to(wheel_python.parents[1])
    assert Path(adapters) == Path(package).parent / "adapters" / "__init__.py"
    assert top_level == "None"


def test_editable_install_imports_the_adapters_of_the_source_tree(editable_python: Path, source: Path) -> None:
    package, adapters, top_level = origins(editable_python, "gta_datasets", "gta_datasets.adapters", "adapters")
    assert Path(package) == source / "gta_datasets" / "__init__.py"
    assert Path(adapters) == source / "adapters" / "__init__.py"
    assert top_level == "None"


def test_editable_install_sees_an_adapter_added_later(editable_python: Path, source: Path) -> None:
    added = source / "adapters" / "added_later.py"
    added.write_text("")
    try:
        assert origins(editable_python, "gta_datasets.adapters.added_later") == [str(added)]
    finally:
        added.unlink()


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path, source: Path) -> None:
    def files(folder: Path, prefix: str) -> set[str]:
        found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return {f"{prefix}/{name}" for name in found if not name.endswith(".pyc")}

    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = files(source / "gta_datasets", "gta_datasets") | files(source / "adapters", "gta_datasets/adapters")
    assert names == expected
    assert {"gta_datasets/py.typed", "gta_datasets/adapters/py.typed"} <= names


def test_command_line_is_installed_and_answers(wheel_python: Path) -> None:
    usage = run(wheel_python.with_name("gta-datasets"), "--help", cwd=wheel_python.parent)
    assert all(command in usage for command in ("demo", "augment", "quality", "export", "cache"))


def test_import_needs_no_extra(wheel_python: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(sys.argv[1:]))\n"  # None in sys.modules: importing it raises ImportError
        "from gta_datasets import adapters, augment, cli, dataset, export, metrics, online, policies"
    )
    run(wheel_python, "-I", "-c", code, *OPTIONAL, cwd=wheel_python.parent)


def test_metadata_of_the_wheel(wheel_python: Path) -> None:
    code = (
        "from importlib.metadata import metadata\n"
        "found = metadata('gta-datasets')\n"
        "print(found['Version'], found['License-Expression'])"
    )
    assert run(wheel_python, "-I", "-c", code, cwd=wheel_python.parent).split() == [project()["version"], "MIT"]


def test_constraints_pin_a_version_inside_every_accepted_range() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0"

    tables = [project()["dependencies"], *project()["optional-dependencies"].values()]
    requirements = [Requirement(text) for table in tables for text in table]
    outside = [
        str(requirement)
        for requirement in requirements
        if requirement.name != "gta-datasets"
        and pins.get(canonicalize_name(requirement.name), "0") not in requirement.specifier
    ]
    assert outside == []


def test_all_holds_every_extra_a_user_may_want() -> None:
    extras = project()["optional-dependencies"]

    def reachable(name: str) -> set[str]:
        requirements = [Requirement(text) for text in extras[name]]
        nested = {extra for item in requirements if item.name == "gta-datasets" for extra in item.extras}
        return {name}.union(*map(reachable, nested))

    assert reachable("all") == set(extras) - {"test", "dev"}
