"""The nine rooms: imports run downwards only, and importing the package loads nothing heavy."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter

import pytest

import micronet

# The floors of the house, lowest first. A module imports from rooms on floors below its own and from its own room.
FLOORS = [
    {"core"},
    {"io"},
    {"networks", "report"},
    {"data", "measure"},
    {"segment"},
    {"training"},
    {"app"},
]
# Imports inside functions: each spares every command the time, or everybody the need, of what few ask for.
LATE = {
    ("core.ownership", "fcntl"): "not on Windows",
    ("networks.engine", "micronet.networks.kernels"): "numba takes a second, and PyTorch can do without it",
    ("networks.library", "monai"): "an extra that takes seconds",
    ("segment.windows", "monai"): "an extra that takes seconds",
    ("training.network_losses", "monai"): "an extra that takes seconds",
    ("networks.taught", "micronet.networks.pixel"): "it imports numba, for weights that were taught only",
    ("networks.taught", "micronet.networks.pixel_trees"): "it imports numba, for weights that were taught only",
    ("io.label_tiff", "tifffile"): "only who asks for a TIFF waits for it",
    ("io.nrrd_header", "nrrd"): "who has no NRRD does without it",
    ("report.annotated", "scipy.ndimage"): "only who shows an annotation waits for it",
    ("report.page.html", "jinja2"): "only who asks for a page waits for it",
    ("measure.lumen_files", "micronet.measure.surface"): "it imports scikit-image, for meshes only",
    ("measure.lumen_files", "micronet.measure.vessels"): "it imports scikit-image, for measures only",
    ("segment.adding", "micronet.segment.report"): "it imports what takes 0.3 s, and few ask for a page",
    ("segment.job", "micronet.segment.report"): "it imports what takes 0.3 s, and few ask for a page",
    ("segment.results", "micronet.measure.pieces"): "it imports scikit-image, for cleaning only",
    ("networks.evening", "scipy"): "only who evens waits for it",
    ("core.regrid", "scipy"): "only whose voxels change waits for it",
    ("core.ram", "ctypes"): "Windows only",
    ("app.segmenting_several", "micronet.segment.several"): "it imports what takes 0.3 s, and few ask for segments",
    ("app.option_types", "torch"): "it takes a second, and only who asks for a GPU waits for it to read a command line",
    ("app.launch", "torch.utils.tensorboard"): "an extra",
    ("app.searching", "micronet.training.search"): "it imports Optuna, an extra",
    ("app.segmenting", "micronet.app.looking"): "it imports scikit-image, for networks that say what an image holds",
    ("app.prompt", "readline"): "not on Windows",
}
# Rooms that keep functions short; all but the terminal's leave the words of the command line to it.
SHORT = {"core", "io", "networks", "report", "data", "measure", "segment", "training", "app"}
LONGEST_FUNCTION, MOST_PARAMETERS = 60, 8
# Kernels are long where they are unrolled, and take arrays one by one: numba has no settings to pass.
KERNELS = "networks.kernels"
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*|-[a-z] [A-Z]+\b)")
# What reads like an option and is none.
NO_OPTIONS = {"data.map_back": {" --back-to"}}  # who made a record, as records have it
# Rooms that know arrays only, and the modules of other rooms that do.
NO_TORCH = {"core", "io", "report", "data", "measure", "networks.kernels", "networks.normalize", "networks.card"}


def _module(root, path):
    return ".".join(path.relative_to(root / "micronet").with_suffix("").parts).removesuffix(".__init__")


@cache
def _sources(root):
    paths = sorted((root / "micronet").rglob("*.py"))
    modules = [(_module(root, path), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    return [(module, tree) for module, tree in modules if module != "__init__"]


def _room(module):
    return module.split(".")[0]


def _floor(module):
    return next(number for number, rooms in enumerate(FLOORS) if _room(module) in rooms)


@cache
def _nodes(tree):
    return tuple(ast.walk(tree))


@cache
def _imported(root, tree):
    """Return the modules that a tree imports: dotted, ours with `micronet.` before them."""
    found = []
    for node in _nodes(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:  # `from micronet.io import nrrd` imports the module, not the package
                inner = f"{node.module}.{alias.name}"
                found.append(inner if (root / f"{inner.replace('.', '/')}.py").is_file() else node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def _within(module, rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_every_module_lives_in_a_room(root):
    rooms = set().union(*FLOORS)
    assert not [module for module, _ in _sources(root) if _room(module) not in rooms]


def test_imports_run_from_a_room_to_rooms_below(root):
    wrong = []
    for module, tree in _sources(root):
        for imported in _imported(root, tree):
            if imported.startswith("micronet."):
                other = imported.removeprefix("micronet.")
                if _room(other) != _room(module) and _floor(other) >= _floor(module):
                    wrong.append(f"{module} imports {other}")
            elif imported == "micronet":
                wrong.append(f"{module} imports the package root")
    assert not wrong


def test_no_imports_run_in_a_circle(root):
    graph = {}
    for module, tree in _sources(root):
        graph.setdefault(f"micronet.{module}", set()).update(set(_imported(root, tree)) - {f"micronet.{module}"})
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_imports_inside_functions_are_those_that_spare_something(root):
    found = set()
    for module, tree in _sources(root):
        functions = [node for node in _nodes(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            for imported in _imported(root, function):
                reasons = {(m, i) for m, i in LATE if m == module and _within(imported, {i})}
                assert reasons, f"{module}.{function.name} imports {imported}"
                found |= reasons
    assert found == set(LATE)


def _short(root):
    return (
        (module, tree) for module, tree in _sources(root) if _within(module, SHORT) and not _within(module, {KERNELS})
    )


def _functions(tree):
    return (node for node in _nodes(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _parameters(function):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [one.arg for one in named if one is not None and one.arg not in ("self", "cls")]


def test_functions_fit_on_a_screen(root):
    long = [
        f"{module}.{function.name}: {lines} lines"
        for module, tree in _short(root)
        for function in _functions(tree)
        if (lines := function.end_lineno - function.lineno + 1) > LONGEST_FUNCTION
    ]
    assert not long


def test_functions_take_few_parameters(root):
    many = [
        f"{module}.{function.name}: {count} parameters"
        for module, tree in _short(root)
        for function in _functions(tree)
        if (count := len(_parameters(function))) > MOST_PARAMETERS
    ]
    assert not many


def _strings(tree):
    """Yield the string constants of a tree, docstrings apart."""
    documents = {id(node.value) for node in _nodes(tree) if isinstance(node, ast.Expr)}
    for node in _nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def test_only_the_terminal_names_options(root):
    named = [
        f"{module}:{line}: {text!r}"
        for module, tree in _short(root)
        for line, text in _strings(tree)
        if OPTION.search(text) and text not in NO_OPTIONS.get(module, ()) and not _within(module, {"app"})
    ]
    assert not named


@pytest.mark.parametrize(
    ("text", "found"), [("give --spacing Z,Y,X", True), ("-o DIR writes", True), ("a-b -- c", False)]
)
def test_an_option_is_told_from_a_dash(text, found):
    assert bool(OPTION.search(text)) == found


def test_only_the_terminal_prints_and_reads_the_command_line(root):
    wrong = []
    for module, tree in _sources(root):
        if _within(module, {"app"}):
            continue
        wrong += [f"{module} imports argparse" for imported in _imported(root, tree) if _within(imported, {"argparse"})]
        for node in _nodes(tree):
            if isinstance(node, ast.Name) and node.id == "print":
                wrong.append(f"{module}:{node.lineno}: print")
            if isinstance(node, ast.Attribute) and node.attr == "argv":
                wrong.append(f"{module}:{node.lineno}: argv")
    assert not wrong


def test_array_rooms_import_no_torch(root):
    wrong = [
        f"{module} imports {imported}"
        for module, tree in _sources(root)
        if _within(module, NO_TORCH)
        for imported in _imported(root, tree)
        if _within(imported, {"torch"})
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["micronet", "micronet.data.phantom", "micronet.io", "micronet.core.volume"])
def test_importing_without_networks_leaves_torch_unloaded(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scripts_are_thin(root):
    long = {
        path.name: lines for path in root.glob("*.py") if (lines := len(path.read_text("utf-8").splitlines())) >= 80
    }
    assert not long


def test_public_names_are_importable_and_unknown_ones_are_not():
    for name in micronet.__all__:
        assert callable(getattr(micronet, name))
    assert set(micronet.__all__) <= set(dir(micronet))
    with pytest.raises(AttributeError, match="has no attribute 'surprise'"):
        _ = micronet.surprise
