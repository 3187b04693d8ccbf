"""The documents: README's own lines run in their order; scripts understand all commands; links lead somewhere."""

import importlib
import io
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import torch
from running import exit_code
from scipy import ndimage

from micronet import Volume, read_volume, write_volume
from micronet.io import Segment, write_segmentation
from micronet.networks.library import Build, UNet
from micronet.networks.weights import save_state

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for where in (".", "annotations", "benchmarks", "datasets", "docs", "struct_iso", "trained_models", "micronet")
    for path in (ROOT / where).glob("**/*.md" if where == "micronet" else "*.md")
)

#: Scripts that a document names while they are being written: blocks with one are left out.
AHEAD: set[str] = set()


class Line(NamedTuple):
    """A command as it is written, and what is typed at the prompt that it opens."""

    text: str
    typed: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        return shlex.split(self.text, comments=True)[1]

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.text, comments=True)[2:]


def blocks_of(text: str) -> list[list[Line]]:
    """Return the commands of each code block: shell lines, and the transcript of a prompt."""
    blocks = []
    for kind, body in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        lines: list[Line] = []
        for written in body.splitlines():
            if kind == "sh":
                lines += [Line(part.strip().removeprefix(".venv/bin/")) for part in written.split("&&")]
            elif not kind and written.startswith("$ "):
                lines.append(Line(written[2:]))
            elif not kind and written.startswith("> "):
                said = re.split(r"  +", written[2:])[0]
                lines[-1] = lines[-1]._replace(typed=(*lines[-1].typed, said))
        blocks.append([line for line in lines if line.text and not line.text.startswith("#")])
    # What is set apart by four blanks is code too.
    blocks += [[Line(line)] for line in re.findall(r"^ {4,}(python \S+\.py.*)$", text, re.MULTILINE)]
    return blocks


def is_set_up(line: Line) -> bool:
    """Is this for pip and venv, the run of all tests, or a program of others? Those run where all is checked."""
    return bool(re.match(r"(python3 -m venv|pip install|python -m pytest|napari) ?", line.text))


def is_there(block: list[Line]) -> bool:
    """Are all options of a block there, or is the document ahead of one?"""
    assert all(re.match(r"python \S+\.py\b", line.text) for line in block), block
    return not any(AHEAD & set(line.arguments) for line in block)


def shortened(line: Line) -> Line:
    """Turn passes over the volumes, and rounds of them, into one."""
    return line._replace(typed=tuple(re.sub(r"\d+", "1", said) if said[0].isdigit() else said for said in line.typed))


def stand_ins(folder: Path) -> None:
    """Make small files of the names that README's lines have."""
    demo = read_volume(ROOT / "struct_iso" / "E5D_phantom_demo.nrrd")
    lumen = read_volume(ROOT / "annotations" / "annotation_phantom_demo_iso_full.seg.nrrd").array > 0

    def write(name: str, part: tuple[slice, ...]) -> None:
        volume = Volume(np.ascontiguousarray(demo.array[part]), demo.directions, demo.origin, demo.space, demo.units)
        mask = np.ascontiguousarray(lumen[part])
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_volume(path, volume)
        if name.endswith(".nrrd"):
            stem = str(path).removesuffix(".nrrd")
            write_segmentation(f"{stem}.seg.nrrd", [(Segment(name="full seg"), mask)], volume)

    middle, corner = (slice(28, 60), slice(0, 96), slice(0, 32)), (slice(40, 72), slice(30, 62), slice(0, 32))
    write("embryo.nrrd", middle)
    write("next_embryo.nrrd", corner)
    write("scans/one.nrrd", middle)
    write("scans/two.nrrd", (slice(20, 52), *middle[1:]))
    write("stack.tif", corner)
    (folder / "scans" / "one.seg.nrrd").unlink()
    (folder / "scans" / "two.seg.nrrd").unlink()
    shutil.move(folder / "embryo.seg.nrrd", folder / "true.seg.nrrd")

    embryo, mask = read_volume(folder / "embryo.nrrd"), lumen[middle]
    slab = np.zeros(mask.shape, dtype=bool)
    slab[20] = True
    write_segmentation(
        folder / "strokes.seg.nrrd",
        [(Segment(name="lumen"), mask & slab), (Segment(name="background"), ~mask & slab)],
        embryo,
    )
    checked = np.zeros(mask.shape, dtype=bool)
    checked[[6, 12, 30]] = True
    write_segmentation(
        folder / "edited.seg.nrrd", [(Segment(name="full seg"), mask), (Segment(name="checked"), checked)], embryo
    )
    (folder / "trained_models").mkdir()
    for bundled, name in (
        ("u-net_phantom", "u-net_1600"),
        ("ur-net_phantom", "ur-net_b0.5_1200"),
        ("ur-net_phantom", "ur-net_phantom"),
    ):
        shutil.copy(ROOT / "trained_models" / f"{bundled}.pt", folder / "trained_models" / f"{name}.pt")
    shutil.copy(ROOT / "trained_models" / "ur-net_phantom.json", folder / "trained_models")
    volumes = "".join(
        f'[[volume]]\nname = "{name}"\nsplit = "{split}"\nimage = "{name}.nrrd"\nannotation = "{mask}"\n'
        for name, split, mask in (
            ("embryo", "train", "true.seg.nrrd"),
            ("next_embryo", "validation", "next_embryo.seg.nrrd"),
        )
    )
    (folder / "mine.toml").write_text(f'name = "mine"\n{volumes}', encoding="utf-8")


@pytest.fixture
def run_lines(tmp_path, monkeypatch, capsys):
    """Return what runs the lines of a document, in their order, in a folder of stand-ins; it returns their scripts."""
    monkeypatch.chdir(tmp_path)
    stand_ins(tmp_path)

    def run_line(line: Line) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{said}\n" for said in line.typed)))
        code = exit_code(importlib.import_module(line.script.removesuffix(".py")), *line.arguments)
        out, err = capsys.readouterr()
        # So small a stand-in need not settle, which is told, and all is written.
        assert code == 0 or ("--until-stable" in line.arguments and code == 3), f"{line.text}\n{out}\n{err}"
        assert "error" not in err, f"{line.text}\n{out}\n{err}"
        return line.script

    def run_document(text: str) -> set[str]:
        blocks = [[line for line in block if not is_set_up(line)] for block in blocks_of(text)]
        return {run_line(shortened(line)) for block in blocks if is_there(block) for line in block}

    return run_document


@pytest.mark.usefixtures("engine_ready")
def test_the_lines_of_the_readme_run_in_their_order(run_lines, tmp_path):
    assert {"infer.py", "teach.py", "evaluate.py", "train_micronet.py", "train_micrornet.py"} <= run_lines(README)
    assert all(
        (tmp_path / folder / "embryo.seg.nrrd").exists() for folder in ("taught", "corrected", "kept", "trained")
    )


@pytest.mark.usefixtures("engine_ready")
def test_the_lines_of_the_documents_it_leads_to_run_too(run_lines, tmp_path):
    shutil.copy("true.seg.nrrd", "rough.seg.nrrd")
    shutil.copy("true.seg.nrrd", "embryo_true.seg.nrrd")
    shutil.copy("stack.tif", "scan.tif")
    stack = read_volume("stack.tif", spacing_um=(4.5, 4.5, 4.5)).array
    tifffile.imwrite("beat.tif", np.stack([stack] * 2)[:, :, None], imagej=True, metadata={"axes": "TZCYX"})
    for name in ("taught_embryo_lumen", "taught_embryo_wall"):
        shutil.copy(ROOT / "trained_models" / "u-net_phantom.pt", Path("trained_models", f"{name}.pt"))
    torch.manual_seed(1)
    save_state(Path("trained_models", "unet_3_best.pt"), UNet(Build(classes=("lumen", "wall"))).state_dict())
    for folder, name, copy in (("annotations", "true.seg.nrrd", "embryo.seg.nrrd"), ("struct_iso", "embryo.nrrd", "")):
        Path(folder).mkdir()
        shutil.copy(name, Path(folder, copy))
    assert exit_code(importlib.import_module("infer"), "embryo.nrrd") == 0
    for name in ("segment", "scores", "prepare", "time_lapse"):
        assert run_lines((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"))
    assert (tmp_path / "struct_iso" / "scan.nrrd").exists()


@pytest.mark.usefixtures("engine_ready")
def test_the_lines_on_teaching_run_from_strokes_to_corrections(run_lines, tmp_path):
    stack = read_volume("stack.tif")
    labels = np.zeros(stack.shape, np.uint8)
    labels[:, 20] = np.where(read_volume("next_embryo.seg.nrrd").array[:, 20] > 0, 1, 2)
    tifffile.imwrite("labels.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    labels[20, 5:9, 5:9] = 2
    tifffile.imwrite("labels_2.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    embryo, lumen, slab = read_volume("embryo.nrrd"), read_volume("true.seg.nrrd").array > 0, np.arange(len(lumen)) == 20
    near = ndimage.binary_dilation(lumen, iterations=2)
    classes = {"lumen": lumen, "wall": near & ~lumen, "background": ~near}
    segments = [(Segment(name=name), mask & slab[:, None, None]) for name, mask in classes.items()]
    write_segmentation("classes.seg.nrrd", segments, embryo)
    assert run_lines((ROOT / "docs" / "teach.md").read_text(encoding="utf-8")) == {"teach.py", "infer.py"}
    assert (tmp_path / "predictions" / "next_embryo.seg.nrrd").exists()
    folders = ("taught", "classes", "corrected", "kept")
    assert all((tmp_path / folder / "embryo.seg.nrrd").exists() for folder in folders)
    assert (tmp_path / "taught_2" / "stack.seg.nrrd").exists()
    assert (tmp_path / "both" / "next_embryo.seg.nrrd").exists()


def test_the_python_of_the_documents_runs(tmp_path, monkeypatch, engine_ready):
    monkeypatch.chdir(tmp_path)
    stand_ins(tmp_path)
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        Path("example.py").write_text(example, encoding="utf-8")
        runpy.run_path("example.py")
    assert read_volume("probability.nrrd").shape == read_volume("embryo.nrrd").shape


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_two_commands_of_the_readme_do_all_the_set_up():
    set_up = [line.text for block in blocks_of(README) for line in block if is_set_up(line)]
    assert [line for line in set_up if "venv" in line] == ["python3 -m venv .venv"] * 2
    required = [re.fullmatch(r"pip install -r (\S+)", line)[1] for line in set_up if line.startswith("pip")]
    assert required == ["requirements.txt", "requirements-dev.txt"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_is_understood(document, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def understood(line: Line) -> str:
        """Parse a line; return what is wrong with it beside files of the reader's, which are made."""
        for _ in range(len(line.arguments) + 1):
            try:
                importlib.import_module(line.script.removesuffix(".py")).build_parser().parse_args(line.arguments)
            except SystemExit:
                err = capsys.readouterr().err
                if (missing := re.search(r"'([^'/][^']*)' does not exist", err)) is None:
                    return err
                Path(missing[1]).parent.mkdir(parents=True, exist_ok=True)
                Path(missing[1]).touch()
            else:
                break
        return ""

    for block in blocks_of((ROOT / document).read_text(encoding="utf-8")):
        lines = [line for line in block if line.text.startswith("python ") and not is_set_up(line)]
        if not is_there(lines):
            continue
        for line in lines:
            if "/" in line.script:  # a benchmark: parsed where it runs
                continue
            assert not (wrong := understood(line)), f"{line.text}\n{wrong}"


def anchors_of(path: Path) -> set[str]:
    """Return what a link may point to inside a document: its headings, as sites that show Markdown name them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_somewhere(document):
    written = (ROOT / document).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", written):
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_map_names_every_document():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#\s]+\.md)\)", text)}
    assert [name for name in DOCUMENTS if name != "docs/README.md" and (ROOT / name).resolve() not in named] == []


def test_every_dependency_is_in_the_table_of_what_each_is_for():
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    required = "\n".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")
    )
    names = re.findall(r"^([A-Za-z][\w.-]*)", required, re.MULTILINE)
    assert [name for name in names if name.lower() not in table] == []
