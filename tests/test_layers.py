"""Imports run downwards only, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import micronet

# The layers of the package, lowest first; a module imports from layers below it, and from its own as far as SIBLINGS
# lists it.
LAYERS = [
    {
        "errors",
        "names",
        "outcome",
        "ram",
        "kernels",
        "phantom",
        "losses",
        "soap",
        "metrics",
        "prevalence",
        "drift",
        "topology",
        "distances",
        "sweep",
        "isotropic",
        "centreline",
    },
    {
        "volume",
        "engine",
        "unchanged",
        "models",
        "pixel",
        "pixel_trees",
        "distortion",
        "augmentation",
        "padding",
        "resample",
        "intensity",
        "scores",
        "surface",
        "vessels",
        "footprint",
    },
    {
        "io",
        "pickle_guard",
        "checkpoint",
        "preprocess",
        "recipe",
        "report",
        "curves",
        "record",
        "ownership",
        "lock",
        "raw_grid",
        "raw_scan",
        "sweep_plot",
        "table",
        "page",
        "time_plot",
    },
    {
        "card",
        "dataset",
        "inference",
        "training",
        "teaching",
        "teaching_folds",
        "lesson",
        "learners",
        "runfolder",
        "phantom_set",
        "prepare",
        "mapback",
        "result",
        "evaluation",
        "lumen_files",
        "segment_report",
        "memory",
    },
    {
        "segment",
        "commands",
        "keeper",
        "session",
        "prompt",
        "option_types",
        "console",
        "batch",
        "launch",
        "timelapse",
        "napari_plugin",
        "score_tables",
        "evaluation_report",
    },
]
SIBLINGS = {
    "names": {"errors"},
    "kernels": {"errors"},
    "phantom": {"errors", "kernels"},  # for kernels.threads
    "losses": {"errors", "kernels"},  # for kernels.kept and kernels.threads
    "soap": {"errors"},
    "metrics": {"errors"},
    "ram": {"errors"},
    "drift": {"errors"},
    "topology": {"errors", "metrics"},
    "distances": {"errors", "metrics"},
    "sweep": {"errors", "metrics"},
    "isotropic": {"topology"},
    "centreline": {"isotropic", "topology"},
    "models": {"engine", "unchanged"},
    "surface": {"volume"},
    "vessels": {"volume"},
    "augmentation": {"models"},
    "padding": {"models"},
    "checkpoint": {"io", "pickle_guard"},  # for io.atomic: whatever is written appears whole or not at all
    "report": {"io"},
    "page": {"io", "report"},
    "curves": {"io"},
    "time_plot": {"io"},
    "record": {"io"},
    "ownership": {"record"},
    "sweep_plot": {"io", "report"},
    "table": {"io", "record"},
    "memory": {"inference"},
    "runfolder": {"card"},
    "training": {"dataset", "inference"},
    "lesson": {"teaching_folds"},
    "learners": {"dataset", "inference", "lesson", "teaching", "training"},
    "segment_report": {"inference"},
    "raw_scan": {"io", "raw_grid"},
    "session": {"commands", "keeper"},
    "evaluation_report": {"score_tables"},
    "prompt": {"commands", "console", "keeper", "session"},
    "console": {"option_types"},
    "batch": {"console"},
    "timelapse": {"segment"},
    "napari_plugin": {"timelapse"},
    "launch": {"commands", "console", "keeper", "option_types", "prompt", "session"},
}
NO_TORCH = {
    "errors",
    "names",
    "outcome",
    "ram",
    "footprint",
    "kernels",
    "phantom",
    "metrics",
    "drift",
    "topology",
    "distances",
    "sweep",
    "lumen_files",
    "table",
    "vessels",
    "isotropic",
    "centreline",
    "surface",
    "scores",
    "sweep_plot",
    "evaluation",
    "score_tables",
    "volume",
    "distortion",
    "io",
    "pickle_guard",
    "preprocess",
    "report",
    "page",
    "resample",
    "intensity",
    "raw_grid",
    "raw_scan",
    "phantom_set",
    "prepare",
    "mapback",
    "result",
    "record",
    "ownership",
}


def _imports(root):
    for path in sorted((root / "micronet").rglob("*.py")):
        room = path.relative_to(root / "micronet").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                for alias in node.names:  # `from micronet.io import nrrd` imports the module, not the package
                    inner = f"{node.module}.{alias.name}"
                    is_module = (root / f"{inner.replace('.', '/')}.py").is_file()
                    yield path, room, inner if is_module else node.module
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield path, room, alias.name


def _layer(room):
    return next(number for number, layer in enumerate(LAYERS) if room in layer)


def test_every_module_has_a_layer_and_imports_from_below(root):
    for path, room, imported in _imports(root):
        if not imported.startswith("micronet."):
            continue
        other = imported.split(".")[1]
        if other != room and other not in SIBLINGS.get(room, ()):
            assert _layer(other) < _layer(room), f"{path} imports {imported}"


def test_no_imports_run_in_a_circle(root):
    graph = {}
    for path, _, imported in _imports(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        graph.setdefault(module, set()).add(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_array_rooms_import_no_torch(root):
    assert not [str(path) for path, room, name in _imports(root) if room in NO_TORCH and name.startswith("torch")]


@pytest.mark.parametrize("module", ["micronet", "micronet.phantom", "micronet.io", "micronet.volume"])
def test_importing_without_networks_leaves_torch_unloaded(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_importable_and_unknown_ones_are_not():
    for name in micronet.__all__:
        assert callable(getattr(micronet, name))
    assert set(micronet.__all__) <= set(dir(micronet))
    with pytest.raises(AttributeError, match="has no attribute 'surprise'"):
        _ = micronet.surprise
