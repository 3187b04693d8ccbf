"""Parsers and what lies below them say the same: names that may be chosen, and the settings that messages name."""

import ast
from typing import get_args

import pytest

from micronet.app import options, terminal
from micronet.app.options import ENGINES, RECIPES, SEED, TITLES, settings_of
from micronet.data import intensity, preparation
from micronet.data.augmentation import AUGMENTATIONS
from micronet.data.phantom import PRESETS
from micronet.data.phantom_kinds import KINDS
from micronet.data.scan import RawScan
from micronet.networks import engine, library, registry
from micronet.segment import window_plan
from micronet.training import practice, recipe

PARSERS = {
    "infer.py": options.infer_parser(),
    "evaluate.py": options.evaluate_parser(),
    "prepare.py": options.prepare_parser(),
    "make_phantoms.py": options.make_phantoms_parser(),
    "new_dataset.py": options.new_dataset_parser(),
    "bootstrap_micrornet.py": options.bootstrap_parser(),
    "search.py": options.search_parser(),
    "train_network.py": options.network_parser(),
    "teach.py": options.teach_parser(),
    **{registry.network_named(name).script: options.training_parser(name) for name in TITLES},
}
# Settings whose options fill another name, and why.
OTHERWISE = {
    "also_in": ("data", "a data set is also looked for in the folders of --data"),
    "interval_s": ("interval", "the command line says SECONDS, Python has the unit in the name"),
    "record_path": ("record", "Python says that it is a path, not the record"),
}
# What a message names by a variable.
VARIABLES = {
    "*clash": ("overlap", "blend"),
    "*self.asked": ("window", "overlap", "blend", "border"),
    "role": ("lumen", "background"),
    "chooser": ("lumen", "segment"),
    "wish": (
        *("checked", "clean", "figure", "initial_mask", "keep", "label_tiff", "measures", "mesh", "report"),
        *("resample_um", "segment"),
    ),
}


def test_what_may_be_chosen_is_what_there_is():
    assert (options.DOMAINS, options.AVERAGES) == (intensity.DOMAINS, intensity.AVERAGES)
    assert sorted(options.PRESETS) == sorted(PRESETS)
    assert preparation.FORMATS == options.FORMATS
    assert options.PHANTOMS == tuple(KINDS)
    assert options.AUGMENTATIONS == tuple(AUGMENTATIONS)
    assert get_args(engine.Engine) == ENGINES
    assert get_args(window_plan.Blend) == window_plan.BLENDS == options.BLENDS
    assert sorted(recipe.RECIPES) == sorted(RECIPES)
    assert recipe.TORCH_SEED == SEED
    assert {entry.name: entry.title for entry in registry.entries() if entry.recipe and not entry.sized} == TITLES
    assert (
        tuple(entry.name for entry in registry.entries() if entry.sized and not entry.of_images)
        == options.NETWORKS
        == tuple(library.LIBRARY)
    )
    assert tuple(entry.name for entry in registry.entries() if entry.of_images) == options.OF_IMAGES
    assert (options.NORMS, options.LOSSES) == (library.NORMS, practice.LOSSES)
    assert (options.OPTIMIZERS, options.SCHEDULES) == (practice.OPTIMIZERS, practice.SCHEDULES)


def settings_named(root):
    """Return the settings that messages name below the terminal, each with where."""
    for path in sorted((root / "micronet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setting":
                where = f"{path.name}:{node.lineno}"
                for argument in node.args:
                    if isinstance(argument, ast.Constant):
                        yield argument.value, where
                    else:
                        variable = ast.unparse(argument)
                        assert variable in VARIABLES, f"{where} names a setting by {variable}: which may it be?"
                        yield from ((name, where) for name in VARIABLES[variable])


def test_a_setting_that_a_message_names_is_shown_as_an_option_of_a_script(root):
    named = dict(settings_named(root)) | dict.fromkeys(terminal._OPTIONS, "terminal.py")
    assert set(OTHERWISE) <= set(named)
    actions = [action for parser in PARSERS.values() for action in parser._actions]
    for name, where in named.items():
        option = terminal.with_options(f"(setting: {name})").strip("()").split(" ")[0]
        fills = {action.dest for action in actions if option in action.option_strings}
        wanted, _ = OTHERWISE.get(name, (name, ""))
        assert wanted in fills, f"{where} names {name}, shown as {option}, which fills {fills or 'nothing'}"


def test_settings_are_filled_by_the_options_of_their_names():
    arguments = options.prepare_parser().parse_args(["a.raw", "--axes", "YZX", "--spacing", "2", "--depth-axis", "Z"])
    scan = settings_of(RawScan, arguments, refractive_index=1.5)
    assert (scan.axes, scan.spacing_um, scan.depth_axis, scan.refractive_index) == ("YZX", (2, 2, 2), "Z", 1.5)


@pytest.mark.parametrize("script", PARSERS)
def test_scripts_are_thin(root, script):
    assert len((root / script).read_text(encoding="utf-8").splitlines()) < 80
