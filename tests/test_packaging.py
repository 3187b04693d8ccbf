"""What is installed: the same libraries by either list, and every file that the package reads."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import numpy as np
import pytest

from micronet import Volume, write_volume

# The one library whose version a fresh machine is told, and a library that uses micronet is not.
PINNED = "torch"


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _listed(path):
    """Return the requirements of a file, without comments and references to other files."""
    lines = [line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def _bounds(requirements):
    bounds = dict(re.fullmatch(r"([\w-]+)(>=[\w.]+)", requirement).groups() for requirement in requirements)
    assert len(bounds) == len(requirements)
    return bounds


def test_requirements_and_pyproject_ask_for_the_same(root, project):
    core = _listed(root / "requirements.txt")
    pinned = [line for line in core if line.startswith(PINNED)]
    asked = _bounds(project["project"]["dependencies"])
    assert pinned == [f"{PINNED}{asked.pop(PINNED).replace('>=', '==')}.0"]
    assert _bounds([line for line in core if line not in pinned]) == asked
    tests = project["project"]["optional-dependencies"]["dev"]
    assert _bounds(_listed(root / "requirements-dev.txt")) == _bounds(tests)


def test_an_extra_asks_for_what_the_tests_are_run_with(project):
    extras = project["project"]["optional-dependencies"]
    tests = _bounds(extras["dev"])
    assert tests["h5py"] == _bounds(extras["hdf5"])["h5py"]
    assert tests["zarr"] == _bounds(extras["zarr"])["zarr"]
    assert tests["optuna"] == _bounds(extras["search"])["optuna"]


def test_without_the_extras_a_volume_is_segmented(root, project, rng, tmp_path):
    extras = project["project"]["optional-dependencies"]
    words = (re.match(r"[\w-]+", one).group() for name, asked in extras.items() if name != "dev" for one in asked)
    missing = sorted({*words, "dask"})
    assert {"distributed", "h5py", "monai", "napari", "zarr"} <= set(missing)
    write_volume(tmp_path / "a.nrrd", Volume(rng.integers(0, 255, (32, 33, 34), np.uint8)))
    block = f"import runpy, sys; sys.modules.update(dict.fromkeys({missing}))"
    code = f"{block}; runpy.run_path('infer.py', None, '__main__')"
    words = [tmp_path / "a.nrrd", "--iterations", "1", "--threads", "1", "-o", tmp_path / "out"]
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.json").exists()


def test_what_a_page_is_made_of_is_installed_with_it(root, project):
    patterns = project["tool"]["setuptools"]["package-data"]["micronet.report.page"]
    files = [
        path.name
        for path in (root / "micronet" / "report" / "page").iterdir()
        if path.is_file() and path.suffix != ".py"
    ]
    assert {"parts.html", "report.html", "report.css", "report.js"} <= set(files)
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []
