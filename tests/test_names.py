"""Names that are no text, look alike, or would be comments or formulas: in every file we write and every pair."""

import csv
import html
import json
import os
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import numpy as np
import pandas
import pytest
import running
import torch
from shapes import ball
from tiny_training import write_dataset

import evaluate
import infer
import make_phantoms
import prepare
import train_micronet
from micronet import MicroRNet, Volume, write_volume
from micronet.core.errors import FileError, InputError
from micronet.core.names import check_apart, existing, file_part, read_name, same_name, write_name
from micronet.core.table import write_table
from micronet.core.volume import upright
from micronet.data.dataset import DataSetError, load_split, read_dataset
from micronet.io import Segment, read_annotation, read_segmentation, read_volume, write_segmentation
from micronet.networks.weights import find_weights, load_state, save_state
from micronet.segment.time_plot import write_time_plot
from micronet.training.curves import Curve, write_curves
from micronet.training.run_files import LogRow, Places, Run

LATIN = os.fsdecode(b"Gef\xe4\xdf")
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Gefäß_Größe") for form in ("NFC", "NFD"))
LONG = "ü" * 105 + "x" * 13  # 223 bytes; with what we put behind it, 255 at most
NAMES = (
    LATIN,
    DECOMPOSED,
    "a#b",
    "=1+1|cmd",
    "-2+3",
    "@SUM(A1)",
    "two\nlines",
    "tab\there",
    LONG,
    "Case",
    "case",
    "50%41",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(script, *arguments, capsys):
    return running.call(script, *arguments, capsys=capsys)


def write_mask(path, mask=None):
    path.parent.mkdir(exist_ok=True)
    grid = Volume(ball(14) if mask is None else mask, directions=upright((4.5,) * 3), units="um")
    write_segmentation(path, [(Segment(name="lumen"), grid.array)], grid)


def read_back(path):
    """Return a table as README reads it, after the checks that every table must stand."""
    content = Path(path).read_bytes()
    text = content.decode("utf-8")
    assert all(character.isprintable() or character == "\n" for character in text)
    for row in csv.reader(line for line in text.splitlines() if not line.startswith("#")):
        for cell in row:
            assert cell[:1] not in "=+-@" or not cell or np.isfinite(float(cell)), cell
    return pandas.read_csv(path, comment="#")


@pytest.mark.parametrize("name", [*NAMES, "", "\ud800", "#", "%", "  =1", "日本語 ☂", "a\u202eb", "\uff1d1"])
def test_a_written_name_is_one_line_of_valid_text_and_comes_back(name):
    written = write_name(name)
    written.encode("utf-8")
    assert written.isprintable()
    assert "#" not in written
    assert written[:1] not in ("=", "+", "-", "@", "\uff1d")
    if name != "\ud800":
        assert read_name(written) == name


def test_only_accents_may_differ_between_names_that_are_the_same():
    assert same_name(COMPOSED, DECOMPOSED)
    assert not same_name("Case", "case")
    assert not same_name("a", "a ")


def test_parts_of_file_names_stay_apart():
    assert file_part(DECOMPOSED) == DECOMPOSED
    assert len({file_part(name) for name in ("a b", "a_b", "a#b", "a/b")}) == 4


class TestEvaluate:
    def test_every_name_is_paired_and_read_by_pandas(self, folder, capsys):
        for name in NAMES:
            write_mask(folder / "p" / f"{name}.seg.nrrd", ball(6))
            write_mask(folder / "a" / f"{name}.seg.nrrd", ball(6))
        code, out, err = call(evaluate, "p", "--annotation", "a", "--report", capsys=capsys)
        assert (code, err) == (0, "")
        assert "note: 'Case' and 'case' differ only in case: they count as two volumes" in out
        table = read_back("scores/scores.csv")
        assert sorted(map(read_name, table["volume"])) == sorted(NAMES)
        assert set(map(read_name, table["prediction"])) == {f"p/{name}.seg.nrrd" for name in NAMES}
        assert (table["dice"] == 1).all()
        read_back("scores/summary.csv")
        page = Path("scores/scores_report.html").read_bytes().decode("utf-8")
        record = json.loads(html.unescape(page[page.index("<pre") :].split(">", 1)[1].split("</pre>")[0]))
        assert sorted(read_name(pair["volume"]) for pair in record["pairs"]) == sorted(NAMES)

    def test_sweeps_and_measures_of_a_name_that_is_no_text(self, folder, capsys):
        for name in (LATIN, "=a#b"):
            grid = Volume((200 * ball(6)).astype(np.uint8), directions=upright((4.5,) * 3), units="um")
            (folder / "p").mkdir(exist_ok=True)
            write_volume(folder / "p" / f"{name}_probability.nrrd", grid)
            write_mask(folder / "a" / f"{name}.seg.nrrd", ball(6))
        options = (
            "--sweep",
            "--measures",
            "--report",
            "--image",
            *(f"p/{name}_probability.nrrd" for name in (LATIN, "=a#b")),
        )
        code, _, err = call(evaluate, "p", "--annotation", "a", *options, capsys=capsys)
        assert (code, err) == (0, "")
        for name in (LATIN, "=a#b"):
            for kind in ("sweep", "predicted_vessels", "annotated_centrelines"):
                assert len(read_back(f"scores/{name}_{kind}.csv"))
            assert Path(f"scores/{name}_sweep.png").stat().st_size > 1000

    def test_predictions_annotations_and_images_are_paired_however_their_accents_are_put_together(self, folder, capsys):
        for number in "12":
            write_mask(folder / "p" / f"{DECOMPOSED}{number}.seg.nrrd", ball(6))
            write_mask(folder / "a" / f"annotation_{COMPOSED}{number}_iso_full.seg.nrrd", ball(6))
            (folder / "i").mkdir(exist_ok=True)
            image = Volume(ball(6).astype(np.uint8), directions=upright((4.5,) * 3), units="um")
            write_volume(folder / "i" / f"E5D_{COMPOSED}{number}.nrrd", image)
        code, _, err = call(evaluate, "p", "--annotation", "a", "--report", "--image", "i", capsys=capsys)
        assert (code, err) == (0, "")
        table = read_back("scores/scores.csv")
        assert list(table["volume"]) == [f"{DECOMPOSED}1", f"{DECOMPOSED}2"]
        assert list(table["dice"]) == [1, 1]
        assert Path("scores/scores_report.html").read_text(encoding="utf-8").count("data:image/jpeg") == 8

    def test_the_files_of_a_mac_that_were_reported(self, shared, folder, capsys):
        faults = shared / "faults" / "10-nfc-nfd-names"
        if not faults.is_dir():
            pytest.skip("needs ../shared/faults")
        assert call(evaluate, faults / "pred", "--annotation", faults / "ann", capsys=capsys)[0] == 0
        assert list(read_back("scores/scores.csv")["dice"]) == [1, 1]

    def test_names_that_differ_in_case_alone_are_told_and_not_paired(self, folder, capsys):
        for path in ("p/a.seg.nrrd", "p/B.seg.nrrd", "a/A.seg.nrrd", "a/b.seg.nrrd"):
            write_mask(folder / path, ball(6))
        code, _, err = call(evaluate, "p", "--annotation", "a", capsys=capsys)
        assert code == 2
        assert "no prediction and annotation share a name: B, a against A, b ('" in err
        assert "differ only in case" in err

    def test_two_files_of_one_name_are_told(self, folder, capsys):
        for path in (f"p/{COMPOSED}.seg.nrrd", f"p/{DECOMPOSED}.seg.nrrd", "a/b.seg.nrrd"):
            write_mask(folder / path, ball(6))
        code, _, err = call(evaluate, "p", "--annotation", "a", capsys=capsys)
        assert code == 2
        assert "are both of volume" in err


class TestInfer:
    OPTIONS = ("--model", "ur-net.pt", "--iterations", 1, "--threads", 1, "-o", "out")

    @pytest.fixture(autouse=True)
    def scans(self, folder, rng, engine_ready):
        torch.manual_seed(3)
        save_state(folder / "ur-net.pt", MicroRNet().state_dict())
        self.volume = Volume(rng.integers(0, 255, (32, 32, 32), np.uint8), directions=upright((4.5,) * 3), units="um")

    def test_every_output_of_every_name_is_valid_text_and_is_done_before_the_second_time(self, folder, capsys):
        names = (LATIN, f"={DECOMPOSED}#|\n", LONG, "Case", "case")
        for name in names:
            write_volume(folder / f"{name}.nrrd", self.volume)
        inputs = [f"./{name}.nrrd" for name in names]
        options = (*self.OPTIONS, "--report", "--measures", "--mesh", "ply", "--label-tiff")
        code, out, err = call(infer, *inputs, *options, capsys=capsys)
        assert (code, err) == (0, "")
        assert "note: 'Case' and 'case' differ only in case" in out
        for name in names:
            record = json.loads((folder / "out" / f"{name}.json").read_bytes().decode("utf-8"))
            assert Path(read_name(record["input"]["path"])) == Path(f"{name}.nrrd")
            files = {read_name(file) for file in record["files"].values()}
            assert all((folder / "out" / file).is_file() for file in files)
            assert f"{name}_preview.png" in files
            page = (folder / "out" / f"{name}_report.html").read_bytes().decode("utf-8")
            assert f"<title>{html.escape(write_name(name))}" in page
            for kind in ("vessels", "centrelines"):
                read_back(f"out/{name}_{kind}.csv")
        code, out, err = call(infer, *inputs, *options, capsys=capsys)
        assert (code, err) == (0, "")
        assert f"{len(names)} skipped" in out

    def test_a_time_lapse(self, folder, capsys):
        names = [f"{LATIN}_t0", f"{DECOMPOSED}#t1", "=t2"]
        for name in names:
            write_volume(folder / f"{name}.nrrd", self.volume)
        code, _, err = call(infer, *(f"{name}.nrrd" for name in names), "--time-lapse", *self.OPTIONS, capsys=capsys)
        assert (code, err) == (0, "")
        table = read_back(f"out/{LATIN}_timelapse.csv")
        assert list(map(read_name, table["name"])) == names
        assert read_name(table["start"][1]) == f"{LATIN}_t0_probability.nrrd"

    def test_two_inputs_of_one_name_are_refused(self, folder, capsys):
        for name in (COMPOSED, DECOMPOSED):
            write_volume(folder / f"{name}.nrrd", self.volume)
        code, _, err = call(infer, f"{COMPOSED}.nrrd", f"{DECOMPOSED}.nrrd", *self.OPTIONS, capsys=capsys)
        assert code == 2
        assert "would both write" in err

    def test_where_the_locale_knows_no_umlauts(self, folder, root):
        for name in (LATIN, DECOMPOSED):
            write_volume(folder / f"{name}.nrrd", self.volume)
        command = [sys.executable, root / "infer.py", f"{LATIN}.nrrd", f"{DECOMPOSED}.nrrd", *map(str, self.OPTIONS)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
        done = subprocess.run(
            [*command, "--report"], env=environment | {"LC_ALL": "C"}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for name in (LATIN, DECOMPOSED):
            record = json.loads((folder / "out" / f"{name}.json").read_text(encoding="utf-8"))
            assert read_name(record["input"]["path"]) == f"{name}.nrrd"

    def test_weights_and_segments_are_found_however_their_accents_are_put_together(self, folder):
        os.rename("ur-net.pt", f"{DECOMPOSED}.pt")
        assert load_state(find_weights(f"{COMPOSED}.pt", []))
        assert find_weights(COMPOSED, [folder]).is_file()
        grid = Volume(ball(3))
        write_segmentation("a.seg.nrrd", [(Segment(name=name), grid.array) for name in (DECOMPOSED, "other")], grid)
        assert read_segmentation("a.seg.nrrd").choose(COMPOSED).index == 0

    @pytest.mark.parametrize(
        ("there", "asked", "message"),
        [
            ("Case", "case", "does not exist; there is 'Case.nrrd', which differs in case"),
            (DECOMPOSED, COMPOSED, "whose accents are put together differently"),
            ("other", "case", "does not exist$"),
        ],
    )
    def test_what_is_nearly_there_is_told(self, folder, there, asked, message):
        write_volume(folder / f"{there}.nrrd", self.volume)
        with pytest.raises(FileError, match=message):
            read_volume(f"{asked}.nrrd")


def test_prepared_volumes_and_masks_that_go_back_whatever_their_names(folder, rng, capsys):
    scan = Volume(rng.integers(1, 255, (32, 36, 34), np.uint8), directions=upright((4.5,) * 3), units="um")
    for name in (LATIN, DECOMPOSED, "a#b"):
        write_volume(folder / f"{name}.nrrd", scan)
        code, _, err = call(prepare, f"{name}.nrrd", "--domain", "log", capsys=capsys)
        assert (code, err) == (0, "")
        record = json.loads((folder / "struct_iso" / f"{name}.json").read_bytes().decode("utf-8"))
        assert read_name(record["output"]["file"]) == f"{name}.nrrd"
        write_mask(folder / f"{name}.seg.nrrd", np.ones((32, 36, 34), bool))
        code, out, err = call(prepare, f"{name}.seg.nrrd", "--back-to", f"{name}.nrrd", capsys=capsys)
        assert (code, err) == (0, "")
        assert "record      struct_iso" in out
        # The record speaks for the prepared volume: its logarithm is not taken again.
        code, _, err = call(prepare, f"struct_iso/{name}.nrrd", "--domain", "intensity", "-o", "b", capsys=capsys)
        assert code == 2
        assert "the logarithm would be taken twice" in err
    os.rename(f"struct_iso/{DECOMPOSED}.json", f"struct_iso/{COMPOSED}.json")
    code, _, err = call(prepare, f"struct_iso/{DECOMPOSED}.nrrd", "--domain", "intensity", "-o", "b", capsys=capsys)
    assert "the logarithm would be taken twice" in err


def test_phantoms_over_masks_of_any_name_make_a_data_set_that_is_read(folder, capsys):
    names = [LATIN, DECOMPOSED, "a#b", "two\nlines", "del\x7f", 'x"y\\z', "Case", "case"]
    mask = np.zeros((64, 64, 64), bool)
    mask[20:40, 20:40, 20:40] = True
    for name in names:
        write_mask(folder / f"{name}.seg.nrrd", mask)
    code, _, err = call(make_phantoms, "--from-annotation", *(f"{name}.seg.nrrd" for name in names), capsys=capsys)
    assert (code, err) == (0, "")
    path = Path("phantoms/phantoms.toml")
    found = [volume["name"] for volume in tomllib.loads(path.read_bytes().decode("utf-8"))["volume"]]
    assert found == ["Gef%E4%DF", DECOMPOSED, "a#b", "two%0Alines", "del%7F", 'x"y\\z', "Case", "case"]
    assert sum(map(len, load_split(read_dataset(path)).values())) == len(names)
    twins = (f"{COMPOSED}.seg.nrrd", f"{DECOMPOSED}.seg.nrrd")
    write_mask(folder / twins[0], mask)
    code, _, err = call(make_phantoms, "--from-annotation", *twins, "-o", "b", capsys=capsys)
    assert code == 2
    assert "two annotations would both be called" in err


def test_a_data_set_finds_files_however_their_accents_are_put_together(folder):
    lines = []
    for split, name in (("train", DECOMPOSED), ("test", f"{DECOMPOSED}2")):
        write_volume(folder / f"{name}.nrrd", Volume(ball(20).astype(np.uint8)))
        write_mask(folder / f"{name}.seg.nrrd", ball(20))
        typed = unicodedata.normalize("NFC", name)
        files = f'image = "{typed}.nrrd"\nannotation = "{typed}.seg.nrrd"\nspacing_um = 4.5'
        lines.append(f'[[volume]]\nname = "{typed}"\nsplit = "{split}"\n{files}')
    Path("d.toml").write_text("\n".join(lines), encoding="utf-8")
    samples = load_split(read_dataset("d.toml"))
    assert [len(found) for found in samples.values()] == [1, 0, 1]
    Path("d.toml").write_text("\n".join([*lines, lines[0].replace(COMPOSED, DECOMPOSED)]), encoding="utf-8")
    with pytest.raises(DataSetError, match="listed twice in split 'train'"):
        read_dataset("d.toml")


def test_the_log_of_a_training_is_read_by_pandas_and_by_us(folder):
    run = Run("u-net", 1, Places())
    for step, name in enumerate(("a#b", "=1+1|cmd", DECOMPOSED, "two\nlines"), 1):
        run.log(LogRow(step, "step", name, 0.1, 1.0, 0.5, 0.5, 0.5, 0.5, None, 0.1))
    assert list(map(read_name, read_back("logs/u-net.csv")["volume"])) == ["a#b", "=1+1|cmd", DECOMPOSED, "two\nlines"]
    run.keep({"w": torch.zeros(1)}, 4, 1.0, {})
    again, _ = Run.reopen(Path("checkpoints/u-net.session"), Places())
    assert again.rows == run.rows


def test_a_training_keeps_every_name_and_goes_on(folder, capsys, engine_ready):
    path = write_dataset(folder / LATIN, train=1, validation=1, test=0)
    text = path.read_text(encoding="utf-8").replace('name = "train_0"', 'name = "=a#b"')
    path.write_text(text.replace('name = "validation_0"', f'name = "{DECOMPOSED} a/b"'), encoding="utf-8")
    arguments = ("--threads", 1, "--iterations", 1)
    code, out, err = call(train_micronet, "--dataset", path, *arguments, "--run", "1; val", capsys=capsys)
    assert (code, err) == (0, ""), out
    assert list(map(read_name, read_back("logs/u-net.csv")["volume"].dropna())) == ["=a#b"]
    manifest = json.loads(Path("logs/u-net.json").read_bytes().decode("utf-8"))
    assert read_name(manifest["dataset"]["file"]) == str(path)
    assert Path(f"predictions/u-net_1_{DECOMPOSED}%20a%2Fb.seg.nrrd").is_file()
    code, out, err = call(train_micronet, *arguments, "--resume", "--run", "log", capsys=capsys)
    assert (code, err) == (0, ""), out
    assert list(map(read_name, read_back("logs/u-net.csv")["volume"].dropna())) == ["=a#b"]


def test_titles_of_plots_take_any_name(folder):
    for number, name in enumerate([f"{LATIN}{DECOMPOSED}\n$x^2$" + "x" * 200]):
        curve = Curve()
        curve.add(1, 0.5, 0.5)
        write_curves(f"{number}_curves.png", {name: curve}, curve, title=name)
        write_time_plot(f"{number}_time.png", [0], [1], [1], [(0, 0, 0)], in_um=True, in_seconds=True, title=name)


def test_no_cell_of_a_table_is_a_formula_and_numbers_stay_as_they_are(folder):
    cells = ["=1", "+1", "-1", "-x", "@a", "\t=1", "\r=1", -1.5, "1e-5", None, "", Path("-b"), "a,b", 'a"b', " x"]
    write_table("t.csv", "two\nlines \udce4", ["a # comment"], list(map(str, range(len(cells)))), [cells])
    line = Path("t.csv").read_text(encoding="utf-8").splitlines()[-1]
    assert line == '%3D1,+1,-1,%2Dx,%40a,%09=1,%0D=1,-1.5,1e-5,,,%2Db,"a,b","a""b", x'
    assert Path("t.csv").read_text(encoding="utf-8").startswith("# two lines \\udce4\n")


def test_a_name_of_full_length_is_written_and_keeps_what_the_disk_can_hold(folder):
    name = "ä" * 125 + ".nrrd"
    assert len(os.fsencode(name)) == 255
    write_volume(name, Volume(ball(2)))
    assert read_annotation(name).mask.array.sum() == ball(2).sum()
    assert os.listdir() == [name]
    with pytest.raises(FileError, match=r"cannot write .*: File name too long"):
        write_volume("x" + name, Volume(ball(2)))


def test_a_header_beside_its_voxels_names_them_or_is_refused(folder):
    write_volume("ü 1.nhdr", Volume(ball(2)))
    assert read_volume("ü 1.nhdr").array.sum() == ball(2).sum()
    for name in (LATIN, "two\nlines"):
        with pytest.raises(FileError, match="a header cannot name"):
            write_volume(f"{name}.nhdr", Volume(ball(2)))
    assert len(os.listdir()) == 2


def test_what_exists_under_two_forms_is_not_guessed(folder):
    Path(COMPOSED).mkdir()
    Path(COMPOSED, "a").touch()
    assert existing(Path(DECOMPOSED, "a")) == Path(COMPOSED, "a")
    other = unicodedata.normalize("NFD", "Gefä") + "ß_Größe"
    Path(other).mkdir()
    assert existing(Path(DECOMPOSED, "a")) == Path(DECOMPOSED, "a")
    with pytest.raises(InputError, match="would both write"):
        check_apart([(COMPOSED, Path("a")), (DECOMPOSED, Path("b"))])
