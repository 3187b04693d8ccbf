"""Nothing of a person's is ever replaced or removed, by any script or command of the prompt."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import call, read_json
from tiny_training import write_dataset

import bootstrap_micrornet
import evaluate
import infer
import make_phantoms
import prepare
import teach
import train_micronet
from micronet import MicroNet, MicroRNet, Volume, read_volume, write_volume
from micronet.core.errors import FileError, InputError
from micronet.core.names import write_name
from micronet.core.ownership import Mark, Outputs, check_outputs
from micronet.core.provenance import read_sealed, write_sealed
from micronet.core.volume import upright
from micronet.io import Segment, files_of, write_segmentation
from micronet.networks import engine
from micronet.networks.card import card_path, planned_weights, read_card, record_weights
from micronet.networks.weights import load_state, save_state

MINE = b"drawn by hand"


def write(outputs, **content):
    """Write files of the given contents, and their record."""
    with outputs.staged() as folder:
        for name, text in content.items():
            (folder / name).write_text(text, encoding="utf-8")
    outputs.finish({})


def outputs(folder, *names, record="r.json", **how):
    return Outputs(folder, record, "test", names, **how)


class TestOutputs:
    def test_what_was_written_is_replaced_and_what_was_changed_is_not(self, tmp_path):
        write(outputs(tmp_path, "a", "b"), a="first", b="other")
        assert read_json(tmp_path / "r.json")["outputs"] == [
            {"name": name, "bytes": 5, "sha256": sha256(text).hexdigest()}
            for name, text in (("a", b"first"), ("b", b"other"))
        ]
        write(outputs(tmp_path, "a", "b"), a="second", b="other")
        assert (tmp_path / "a").read_text() == "second"

        (tmp_path / "a").write_text("SECOND")  # as long
        with pytest.raises(
            FileError,
            match=r"a' is in the way: we did not write it, or it was changed since; .* elsewhere \(setting: output\)",
        ):
            outputs(tmp_path, "a", "b").check()
        with pytest.raises(FileError, match="a' is in the way"):
            write(outputs(tmp_path, "a", "b"), a="third", b="third")
        assert [(tmp_path / name).read_text() for name in "ab"] == ["SECOND", "other"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "r.json"]

    @pytest.mark.parametrize("first_ends", ["before", "after"])
    def test_of_two_calls_at_once_neither_takes_a_file_of_the_other_for_a_persons(self, tmp_path, first_ends):
        first, second = outputs(tmp_path, "a"), outputs(tmp_path, "a")
        for one, text in ((first, "of the first"), (second, "second")):
            with one.staged() as folder:
                (folder / "a").write_text(text, encoding="utf-8")
        for one in (first, second) if first_ends == "before" else (second, first):
            one.finish({})
            outputs(tmp_path, "a").check()
        write(outputs(tmp_path, "a"), a="third")
        assert (tmp_path / "a").read_text() == "third"

    def test_a_file_that_no_record_names_is_not_replaced(self, tmp_path):
        (tmp_path / "a").write_bytes(MINE)
        with pytest.raises(FileError, match="a' is in the way: no record beside it says that we wrote it"):
            outputs(tmp_path, "a").check()

    def test_a_file_that_came_while_the_work_went_on_is_not_replaced(self, tmp_path):
        planned = outputs(tmp_path, "a", "b")
        planned.check()
        (tmp_path / "b").write_bytes(MINE)
        with pytest.raises(FileError, match="b' is in the way"):
            write(planned, a="ours", b="ours")
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b", MINE)]

    def test_the_record_of_something_else_and_a_changed_one_are_not_replaced(self, tmp_path):
        for name, message in (("other", "it is the record of something else"), ("test", "it was changed since")):
            write_sealed(tmp_path / "r.json", {"made_by": name, "note": "mine"})
            if name == "test":
                text = (tmp_path / "r.json").read_text()
                (tmp_path / "r.json").write_text(text.replace("mine", "MINE"))
            before = (tmp_path / "r.json").read_bytes()
            with pytest.raises(FileError, match=f"r.json' is in the way: .*{message}"):
                write(outputs(tmp_path, "a"), a="ours")
            assert (tmp_path / "r.json").read_bytes() == before

    def test_a_name_that_is_no_text_stays_ours(self, tmp_path):
        name = os.fsdecode(b"Gef\xe4\xdf")
        for text in ("first", "second"):
            write(outputs(tmp_path, name, record=f"{name}.json"), **{name: text})
        assert (tmp_path / name).read_text() == "second"

    def test_a_link_is_no_file_of_ours_whatever_it_leads_to(self, tmp_path):
        write(outputs(tmp_path, "a"), a="ours")
        (tmp_path / "a").rename(tmp_path / "elsewhere")
        for target in ("elsewhere", "nowhere"):
            (tmp_path / "a").symlink_to(target)
            with pytest.raises(FileError, match="a' is in the way"):
                outputs(tmp_path, "a").check()
            (tmp_path / "a").unlink()

    def test_what_is_out_of_date_goes_only_where_it_is_ours(self, tmp_path):
        write(outputs(tmp_path, "a", "b", "c"), a="1", b="1", c="1")
        (tmp_path / "c").write_bytes(MINE)
        (tmp_path / "d").write_bytes(MINE)
        write(outputs(tmp_path, "a", outdated=["b", "c", "d"]), a="2")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d", "r.json"]
        assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes() == MINE

    def test_what_was_planned_and_not_written_does_not_outlive_what_it_belonged_to(self, tmp_path):
        write(outputs(tmp_path, "a", "b"), a="1", b="1")
        write(outputs(tmp_path, "a", "b"), a="2")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "r.json"]

    def test_what_a_later_run_does_not_write_stays_ours(self, tmp_path):
        write(outputs(tmp_path, "a", "b"), a="1", b="1")
        write(outputs(tmp_path, "a"), a="2")
        write(outputs(tmp_path, "a", "b"), a="3", b="3")
        assert (tmp_path / "b").read_text() == "3"

    @pytest.mark.parametrize("killed_at", range(6))
    def test_killed_at_any_moment_everything_stays_ours_and_is_done_again(self, tmp_path, killed_at):
        """Every step of a commit that changes the folder is a renaming or a removal."""
        code = (
            "import os, sys; from pathlib import Path; from micronet.core.ownership import Outputs\n"
            "left = [int(sys.argv[2])]\n"
            "def counted(do):\n"
            "    def step(*a, **k):\n"
            "        left[0] -= 1\n"
            "        if left[0] < 0: os._exit(9)\n"
            "        return do(*a, **k)\n"
            "    return step\n"
            "o = Outputs(Path(sys.argv[1]), 'r.json', 'test', ['a', 'b'])\n"
            "with o.staged() as folder:\n"
            "    for n in 'ab': (folder / n).write_text('new')\n"
            "    os.replace, os.unlink = counted(os.replace), counted(os.unlink)\n"
            "    Path.unlink = counted(Path.unlink)\n"
            "o.finish({})\n"
        )
        write(outputs(tmp_path, "a", "b"), a="old", b="old")
        ended = subprocess.run([sys.executable, "-c", code, tmp_path, str(killed_at)], check=False)
        assert ended.returncode == 9
        assert {(tmp_path / name).read_text() for name in "ab"} <= {"old", "new"}
        write(outputs(tmp_path, "a", "b"), a="newer", b="newer")
        assert (tmp_path / "a").read_text() == "newer"
        assert not (tmp_path / ".r.json.writing").exists()

    def test_a_file_that_is_changed_in_place_is_ours_before_and_after(self, tmp_path):
        planned = outputs(tmp_path, "log", lasting=True)
        write(planned, log="1\n")
        after = b"1\n2\n"
        planned.expect(Mark("log", len(after), sha256(after).hexdigest()))
        outputs(tmp_path, "log").check()
        (tmp_path / "log").write_bytes(after)
        outputs(tmp_path, "log").check()
        planned.finish({})
        assert [mark["bytes"] for mark in read_json(tmp_path / "r.json")["outputs"]] == [4]

    def test_a_crafted_record_lets_us_replace_nothing_but_our_own_names(self, tmp_path):
        folder = tmp_path / "out"
        folder.mkdir()
        mine = tmp_path / "mine"
        mine.write_bytes(MINE)
        (folder / "mine").write_bytes(MINE)
        marks = [Mark(name, len(MINE), sha256(MINE).hexdigest()) for name in ("../mine", str(mine), "mine", "a")]
        told = [vars(mark) for mark in marks] + [None, 1, {}, {"name": "a", "bytes": "x", "sha256": 3}, {"name": {}}]
        write_sealed(folder / "r.json", {"made_by": "test", "outputs": told})
        write(outputs(folder, "a", outdated=["b"]), a="ours")
        assert mine.read_bytes() == (folder / "mine").read_bytes() == MINE

    @pytest.mark.parametrize("outputs_told", ["text", None, {"a": 1}, [[]], 7])
    def test_nonsense_in_a_record_names_nothing(self, tmp_path, outputs_told):
        (tmp_path / "a").write_bytes(MINE)
        write_sealed(tmp_path / "r.json", {"made_by": "test", "outputs": outputs_told})
        with pytest.raises(FileError, match="a' is in the way"):
            outputs(tmp_path, "a").check()

    def test_nothing_is_read_where_the_size_differs(self, tmp_path):
        write(outputs(tmp_path, "a"), a="ours")
        os.truncate(tmp_path / "a", 1 << 40)  # a hole
        with pytest.raises(FileError, match="a' is in the way"):
            outputs(tmp_path, "a").check()


class TestPlan:
    def test_an_output_is_no_input_through_whatever_link(self, tmp_path):
        (tmp_path / "in").write_bytes(MINE)
        for link in (os.link, os.symlink):
            link(tmp_path / "in", tmp_path / "a")
            with pytest.raises(
                InputError, match=r"a' would replace '.*in', which this call reads; write elsewhere \(setting: output\)"
            ):
                check_outputs([outputs(tmp_path, "a")], [tmp_path / "in"])
            (tmp_path / "a").unlink()
        (tmp_path / "folder").symlink_to(tmp_path)
        with pytest.raises(InputError, match="would replace"):
            check_outputs([outputs(tmp_path / "folder", "in")], [tmp_path / "in"])

    @pytest.mark.parametrize("place", ["", "out", "0/deep/er", "../link", "../link/out"])
    def test_nothing_is_written_into_a_volume_that_is_a_folder(self, tmp_path, place):
        chunk = tmp_path / "a.OME.zarr" / "0" / "c"
        chunk.parent.mkdir(parents=True)
        chunk.touch()
        (tmp_path / "link").symlink_to(chunk.parent)
        planned = [outputs(tmp_path / "fine", "b"), outputs(tmp_path / "a.OME.zarr" / place, "b", record="s.json")]
        with pytest.raises(FileError, match=r"lies inside '.*a\.OME\.zarr', a volume .* elsewhere \(setting: output\)"):
            check_outputs(planned, [chunk])
        with pytest.raises(FileError, match=r"lies inside '.*link', a volume that this call reads"):
            check_outputs([outputs(chunk.parent / "b", "c")], [tmp_path / "link", tmp_path / "link" / "c"])

    def test_beside_volumes_that_are_folders_and_into_a_folder_of_volumes_is_written(self, tmp_path):
        chunk = tmp_path / "a.ome.zarr" / "c"
        chunk.parent.mkdir()
        chunk.touch()
        (tmp_path / "b.nrrd").touch()
        read = [chunk, chunk.parent, tmp_path / "b.nrrd"]
        check_outputs([outputs(tmp_path, "c.ome.zarr"), outputs(tmp_path / "results", "d", record="s.json")], read)

    def test_an_input_is_not_removed_as_out_of_date(self, tmp_path):
        write(outputs(tmp_path, "a"), a="ours")
        with pytest.raises(InputError, match="a' is read by this call, which would remove it"):
            check_outputs([outputs(tmp_path, "b", outdated=["a"])], [tmp_path / "a"])

    @pytest.mark.parametrize(
        ("one", "other"), [("a", "a"), ("Embryo", "embryo"), ("u\u0308", "\xfc"), ("STRASSE", "straße")]
    )
    def test_two_outputs_that_the_disk_takes_for_one_are_refused(self, tmp_path, one, other):
        planned = [outputs(tmp_path / "new", one), outputs(tmp_path / "new", other, record="s.json")]
        with pytest.raises(InputError, match="would both write"):
            check_outputs(planned, [], tells_case=False)

    def test_two_outputs_that_this_disk_takes_for_two_go_together(self, tmp_path):
        (tmp_path / "Probe").touch()
        if (tmp_path / "pROBE").exists():
            pytest.skip("this disk does not tell upper from lower case")
        planned = [outputs(tmp_path / "new", "Embryo"), outputs(tmp_path / "new", "embryo", record="s.json")]
        check_outputs(planned, [])
        assert [path.name for path in tmp_path.iterdir()] == ["Probe"]

    def test_a_name_that_gets_too_long_is_told(self, tmp_path):
        check_outputs([outputs(tmp_path, "a" * 241)], [])
        with pytest.raises(FileError, match=r"256 bytes, 255 at most; give the input a shorter name"):
            check_outputs([outputs(tmp_path / "none" / "yet", "a" * 242)], [])
        with pytest.raises(FileError, match=r"255 at most"):
            check_outputs([outputs(tmp_path, record="µ" * 117 + ".json")], [])

    def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(self, tmp_path, read_only):
        (tmp_path / "out").mkdir()
        folder = read_only(tmp_path / "out")
        for place in (folder, folder / "below"):
            with pytest.raises(FileError, match=r"cannot write into .*: Read-only file system"):
                outputs(place, "a").check_room()
        outputs(tmp_path / "new", "a").check_room()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_sealed_record_is_read_as_written_and_not_when_changed(tmp_path):
    content = {"a": [1, 0.1, None], "name": write_name(os.fsdecode(b"scan\xff")), "µ": "ü", "seal": "of an older one"}
    write_sealed(tmp_path / "r", content)
    found = read_sealed(tmp_path / "r")
    assert {key: found[key] for key in ("a", "name", "µ")} == {key: content[key] for key in ("a", "name", "µ")}
    whole = (tmp_path / "r").read_bytes()
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1
        (tmp_path / "r").write_bytes(changed)
        assert read_sealed(tmp_path / "r") is None
    assert read_sealed(tmp_path / "none") is None


def test_a_file_whose_name_is_no_text_is_ours_the_next_time(tmp_path):
    name = os.fsdecode(b"a#b\xff.nrrd")
    for content in ("one", "two"):
        outputs = Outputs(tmp_path, "r.json", "test", [name])
        check_outputs([outputs], [])
        with outputs.staged() as folder:
            (folder / name).write_text(content)
        outputs.finish({})
    assert (tmp_path / name).read_text() == "two"
    assert "a%23b%FF.nrrd" in (tmp_path / "r.json").read_text(encoding="utf-8")


# --- the scripts ---


@pytest.fixture
def folder(tmp_path, monkeypatch, engine_ready):
    """A working directory with a volume, its hand-drawn annotation, and weights."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    mask = np.zeros((32, 34, 36), bool)
    mask[8:20, 8:20, :] = True
    array = (80 + 60 * mask + rng.normal(0, 8, mask.shape)).astype(np.uint8)
    volume = Volume(array, upright((4.5,) * 3), units="um", space="left-posterior-superior")
    write_volume("embryo.nrrd", volume)
    write_segmentation("embryo.seg.nrrd", [(Segment(name="full seg"), mask)], volume)
    torch.manual_seed(11)
    save_state("ur.pt", MicroRNet().state_dict())
    save_state("u.pt", MicroNet().state_dict())
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OPTIONS = ("--model", "ur.pt", "--iterations", 1, "--threads", 1)


def refused(script, *arguments, capsys, naming, folder):
    """Run a script that must refuse, name a file in one line, and leave every file as it was."""
    before = contents(folder)
    code, _, err = call(script, *arguments, capsys=capsys)
    assert code == 2, err
    assert err.count("\n") == 1
    assert naming in err
    assert contents(folder) == before


@pytest.mark.parametrize("more", [(), ("--force",)])
@pytest.mark.parametrize("role", [(), ("--annotation",), ("--initial-mask",)])
def test_infer_never_replaces_an_annotation(folder, capsys, role, more):
    options = [part for one in role for part in (one, "embryo.seg.nrrd")]
    naming = "embryo.seg.nrrd', which this call reads" if role else "'embryo.seg.nrrd' is in the way"
    refused(infer, "embryo.nrrd", *options, *more, *OPTIONS, "-o", ".", capsys=capsys, naming=naming, folder=folder)


def test_infer_never_replaces_an_input_with_the_output_of_another(folder, capsys):
    os.link("embryo.nrrd", "embryo_probability.nrrd")
    inputs = ("embryo.nrrd", "embryo_probability.nrrd")
    os.remove("embryo.seg.nrrd")
    naming = "'embryo_probability.nrrd', which this call reads"
    refused(infer, *inputs, *OPTIONS, "-o", ".", "--force", capsys=capsys, naming=naming, folder=folder)


def test_infer_removes_nothing_that_is_not_its_own(folder, capsys):
    Path("predictions").mkdir()
    foreign = [f"predictions/embryo{end}" for end in ("_lumen.stl", "_vessels.csv", "_report.html", "_labels.tif")]
    for name in foreign:
        Path(name).write_bytes(MINE)
    for more in ((), ("--force",)):
        assert call(infer, "embryo.nrrd", *OPTIONS, *more, capsys=capsys)[0] == 0
        assert all(Path(name).read_bytes() == MINE for name in foreign)
    naming = "embryo_labels.tif' is in the way"
    refused(infer, "embryo.nrrd", *OPTIONS, "--label-tiff", capsys=capsys, naming=naming, folder=folder)


def test_infer_neither_skips_nor_replaces_what_a_person_has_corrected(folder, capsys):
    assert call(infer, "embryo.nrrd", *OPTIONS, capsys=capsys)[0] == 0
    assert "1 skipped" in call(infer, "embryo.nrrd", *OPTIONS, capsys=capsys)[1]
    corrected = Path("predictions/embryo.seg.nrrd")
    corrected.write_bytes(corrected.read_bytes()[:-1] + b"!")
    for more in ((), ("--force",)):
        naming = "embryo.seg.nrrd' is in the way: we did not write it, or it was changed since"
        refused(infer, "embryo.nrrd", *OPTIONS, *more, capsys=capsys, naming=naming, folder=folder)


def test_results_recorded_without_hashes_are_a_persons(folder, capsys):
    assert call(infer, "embryo.nrrd", *OPTIONS, capsys=capsys)[0] == 0
    path = Path("predictions/embryo.json")
    old = {key: value for key, value in read_json(path).items() if key not in ("made_by", "outputs", "seal")}
    path.write_text(json.dumps(old, indent=2), encoding="utf-8")
    for more in ((), ("--force",)):
        refused(infer, "embryo.nrrd", *OPTIONS, *more, capsys=capsys, naming="embryo.json' is in", folder=folder)


def test_infer_refuses_the_whole_call_before_the_first_volume_is_computed(folder, capsys):
    volume = Volume(np.zeros((32, 32, 32), np.uint8))
    for name in ("a", "b"):
        write_volume(f"{name}.nrrd", volume)
    Path("predictions").mkdir()
    Path("predictions/b_preview.png").write_bytes(MINE)
    naming = "b_preview.png' is in the way"
    refused(infer, "a.nrrd", "b.nrrd", *OPTIONS, capsys=capsys, naming=naming, folder=folder)


def test_infer_replaces_neither_weights_card_nor_the_record_of_a_scan(folder, capsys):
    record_weights(planned_weights(Path("ur.pt"), ""), {})
    os.link("embryo.nrrd", "ur.nrrd")
    naming = "ur.json', which this call reads"
    refused(infer, "ur.nrrd", *OPTIONS, "--force", "-o", ".", capsys=capsys, naming=naming, folder=folder)
    assert call(prepare, "embryo.nrrd", "--domain", "log", capsys=capsys)[0] == 0
    prepared = ("struct_iso/embryo.nrrd", "-o", "struct_iso", "--force")
    refused(infer, *prepared, *OPTIONS, capsys=capsys, naming="embryo.json' is in the way", folder=folder)


def test_infer_tells_a_name_that_gets_too_long_before_the_work(folder, capsys):
    name = "e" * 230
    os.link("embryo.nrrd", f"{name}.nrrd")
    refused(infer, f"{name}.nrrd", *OPTIONS, capsys=capsys, naming="too long a name", folder=folder)


def test_the_voxels_of_a_detached_header_are_an_input(folder, capsys):
    volume = Volume(np.zeros((32, 32, 32), np.uint8))
    write_volume("d.nhdr", volume)
    _, voxels = files_of("d.nhdr")
    voxels.rename("d_probability.nrrd")
    Path("d.nhdr").write_text(Path("d.nhdr").read_text().replace(voxels.name, "d_probability.nrrd"))
    naming = "'d_probability.nrrd', which this call reads"
    refused(infer, "d.nhdr", *OPTIONS, "-o", ".", capsys=capsys, naming=naming, folder=folder)


def test_a_time_lapse_replaces_nothing_foreign(folder, capsys):
    for time in (0, 1):
        os.link("embryo.nrrd", f"beat_t{time}.nrrd")
    inputs = ("beat_t0.nrrd", "beat_t1.nrrd", "--time-lapse", *OPTIONS)
    Path("predictions").mkdir()
    for name in ("beat_timelapse.csv", "beat_t1.seg.nrrd"):
        Path("predictions", name).write_bytes(MINE)
        refused(infer, *inputs, "--force", capsys=capsys, naming=f"{name}' is in the way", folder=folder)
        Path("predictions", name).unlink()
    for _ in range(2):
        assert call(infer, *inputs, capsys=capsys)[0] == 0
    assert {mark["name"] for mark in read_json("predictions/beat_timelapse.json")["outputs"]} == {
        "beat_timelapse.csv",
        "beat_timelapse.png",
    }


@pytest.mark.parametrize("name", ["scores.csv", "scores.json", "embryo_sweep.png", "scores_report.html"])
def test_evaluate_replaces_nothing_foreign(folder, capsys, name):
    write_volume("embryo_probability.nrrd", Volume(np.zeros((32, 34, 36), np.uint8)))
    arguments = ("embryo_probability.nrrd", "--annotation", "embryo.seg.nrrd", "--sweep", "--report", "--force")
    Path("scores").mkdir()
    Path("scores", name).write_bytes(MINE)
    refused(evaluate, *arguments, capsys=capsys, naming=f"{name}' is in the way", folder=folder)


def test_evaluate_replaces_its_own_scores_and_removes_only_its_own_page(folder, capsys):
    arguments = ("embryo.seg.nrrd", "--annotation", "embryo.seg.nrrd")
    assert call(evaluate, *arguments, "--report", "--measures", capsys=capsys)[0] == 0
    assert call(evaluate, *arguments, "--force", capsys=capsys)[0] == 0
    assert not Path("scores/scores_report.html").exists()
    Path("scores/scores_report.html").write_bytes(MINE)
    assert call(evaluate, *arguments, "--force", capsys=capsys)[0] == 0
    assert Path("scores/scores_report.html").read_bytes() == MINE
    Path("scores/scores_report.html").unlink()
    assert call(evaluate, *arguments, "--force", "--report", "--measures", capsys=capsys)[0] == 0
    assert call(evaluate, *arguments, "--force", "--measures", capsys=capsys)[0] == 0


@pytest.mark.parametrize("name", ["embryo.nrrd", "embryo.json"])
def test_prepare_replaces_nothing_foreign(folder, capsys, name):
    Path("struct_iso").mkdir()
    Path("struct_iso", name).write_bytes(MINE)
    arguments = ("embryo.nrrd", "--domain", "log", "--force")
    refused(prepare, *arguments, capsys=capsys, naming=f"{name}' is in the way", folder=folder)


def test_prepare_replaces_no_input_and_no_mask_of_its_own_name(folder, capsys):
    naming = "'embryo.nrrd', which this call reads"
    refused(prepare, "embryo.nrrd", "--domain", "log", "-o", ".", capsys=capsys, naming=naming, folder=folder)
    back = ("embryo.seg.nrrd", "--back-to", "embryo.nrrd", "--force")
    Path("embryo_on_embryo.seg.nrrd").write_bytes(MINE)
    naming = "embryo_on_embryo.seg.nrrd' is in the way"
    refused(prepare, *back, capsys=capsys, naming=naming, folder=folder)
    Path("embryo_on_embryo.seg.nrrd").unlink()
    for _ in range(2):
        assert call(prepare, *back, capsys=capsys)[0] == 0
    Path("embryo_on_embryo.seg.nrrd").write_bytes(MINE)
    refused(prepare, *back, capsys=capsys, naming=naming, folder=folder)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (infer, ("a.ome.zarr", *OPTIONS)),
        (infer, ("embryo.nrrd", "--initial-mask", "a.ome.zarr", *OPTIONS)),
        (teach, ("a.ome.zarr", "--labels", "embryo.seg.nrrd")),
        (prepare, ("a.ome.zarr", "--domain", "log")),
        (evaluate, ("a.ome.zarr", "--annotation", "embryo.seg.nrrd")),
    ],
)
def test_no_script_writes_into_an_ome_zarr_that_it_reads(folder, capsys, script, arguments):
    pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")
    if script is teach:
        engine.make_ready("trees")  # else a line says that it is compiled
    write_volume("a.ome.zarr", read_volume("embryo.nrrd"))
    naming = "'a.ome.zarr/out' lies inside 'a.ome.zarr', a volume that this call reads"
    refused(script, *arguments, "-o", "a.ome.zarr/out", "--force", capsys=capsys, naming=naming, folder=folder)


def test_teach_that_is_called_from_inside_an_ome_zarr_leaves_no_weights_there(folder, capsys, monkeypatch):
    pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")
    write_volume("a.ome.zarr", read_volume("embryo.nrrd"))
    monkeypatch.chdir("a.ome.zarr")
    arguments = ("../a.ome.zarr", "--labels", "../embryo.seg.nrrd", "-o", "../out")
    naming = "'trained_models' lies inside '../a.ome.zarr', a volume that this call reads and that has to stay as it is"
    refused(teach, *arguments, capsys=capsys, naming=f"{naming}; start from another folder", folder=folder)


def test_nothing_is_prepared_into_the_folder_of_b_scans_that_it_is_made_of(folder, capsys):
    Path("scan").mkdir()
    for number, plane in enumerate(read_volume("embryo.nrrd").array):
        Image.fromarray(plane).save(f"scan/{number}.png")
    naming = "'scan/out' lies inside 'scan', a volume that this call reads"
    call_ = ("scan", "--domain", "log", "--spacing", "4.5,4.5,4.5", "-o", "scan/out")
    refused(prepare, *call_, capsys=capsys, naming=naming, folder=folder)


PHANTOM = ("1", "--shape", "64,64,64", "--force")


@pytest.mark.parametrize(
    "name",
    [
        "phantoms.toml",
        "phantoms.json",
        "struct_iso/E5D_phantom_0001.nrrd",
        "struct_iso/E5D_phantom_0001.json",
        "annotations/annotation_phantom_0001_iso_full.seg.nrrd",
    ],
)
def test_make_phantoms_replaces_nothing_foreign(folder, capsys, name):
    path = Path("phantoms", name)
    path.parent.mkdir(parents=True)
    path.write_bytes(MINE)
    refused(make_phantoms, *PHANTOM, capsys=capsys, naming=f"{path.name}' is in the way", folder=folder)


def test_bootstrap_replaces_only_weights_that_their_card_names(folder, capsys):
    refused(bootstrap_micrornet, "u.pt", "u.pt", "--force", capsys=capsys, naming="'u.pt', which this", folder=folder)
    refused(bootstrap_micrornet, "u.pt", "ur.pt", "--force", capsys=capsys, naming="'ur.pt' is in the", folder=folder)
    for more in ((), ("--force",)):
        assert call(bootstrap_micrornet, "u.pt", "new.pt", *more, capsys=capsys)[0] == 0
    assert read_json("new.json")["outputs"][0]["name"] == "new.pt"
    assert read_card(Path("new.pt")) is None  # it says nothing of images
    Path("new.json").unlink()
    refused(bootstrap_micrornet, "u.pt", "new.pt", "--force", capsys=capsys, naming="'new.pt' is in", folder=folder)


# --- the prompt ---


def train(data, *commands, capsys, more=()):
    arguments = ("--dataset", data, "--threads", 1, "--iterations", 1, "--run", "; ".join(commands), *more)
    return call(train_micronet, *arguments, capsys=capsys)


def test_the_prompt_replaces_nothing_foreign(folder, capsys):
    data = write_dataset(folder / "data", train=1)
    for place, names in {
        "predictions": ["u-net_0_validation_0.json", "u-net_0_validation_0_preview.png"],
        "checkpoints": ["u-net_mine.pt", "u-net_mine.json", "ur-net_bootstrap.pt"],
    }.items():
        command = {"predictions": "val", "checkpoints": "save mine"}[place]
        Path(place).mkdir(exist_ok=True)
        for name in names:
            path = Path(place, name)
            path.write_bytes(MINE)
            code, out, _ = train(data, "bootstrap" if "bootstrap" in name else command, capsys=capsys)
            assert (code, path.read_bytes()) == (2, MINE)
            assert f"error: '{path}' is in the way" in out
            path.unlink()
    code, out, _ = train(data, "val", "val", "test", "save mine", "bootstrap", "save mine", capsys=capsys)
    assert code == 0, out
    assert card_path(Path("checkpoints/u-net_mine.pt")).is_file()


def test_a_name_that_is_saved_again_keeps_both_weights_with_their_cards(folder, capsys):
    data = write_dataset(folder / "data", train=1)
    code, out, _ = train(data, "save mine", "1", "save mine", capsys=capsys)
    assert code == 0, out
    first, second = (load_state(f"checkpoints/u-net_mine{number}.pt") for number in (".1", ""))
    assert any(not torch.equal(first[key], second[key]) for key in first)
    for number in (".1", ""):
        assert Path(f"checkpoints/u-net_mine{number}.json").is_file()


def test_a_training_goes_on_only_with_files_that_are_as_it_left_them(folder, capsys):
    data = write_dataset(folder / "data", train=1)
    assert train(data, "1", capsys=capsys)[0] == 0
    for name in ("logs/u-net.csv", "logs/u-net.png", "logs/u-net.json", "checkpoints/u-net.session"):
        path = Path(name)
        whole = path.read_bytes()
        path.write_bytes(whole + b"\n")
        before = {path: content for path, content in contents(folder).items() if path.name[0] != "."}
        code, out, _ = train(data, "resume", capsys=capsys)
        assert (code, f"'{name}' is in the way" in out) == (2, True)
        assert {path: content for path, content in contents(folder).items() if path.name[0] != "."} == before
        path.write_bytes(whole)
    assert train(data, "resume", capsys=capsys)[0] == 0


def test_a_lock_that_is_none_is_not_emptied(folder, capsys):
    data = write_dataset(folder / "data", train=1)
    Path("checkpoints").mkdir()
    Path("checkpoints/.u-net.lock").write_bytes(MINE)
    code, _, err = train(data, "1", capsys=capsys)
    assert (code, ".u-net.lock' is in the way" in err) == (2, True)
    assert Path("checkpoints/.u-net.lock").read_bytes() == MINE
