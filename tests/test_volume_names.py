"""Files of one kind: what any of our scripts wrote is told from what is to be segmented, and finds its annotation."""

import csv
import json
from pathlib import Path

import pytest
from running import call
from tiny_training import write_dataset

import evaluate
import infer
import train_micronet
import train_micrornet
from micronet.core.provenance import read_sealed, write_sealed
from micronet.io.volume_names import is_result, result_record, volume_name, volume_of
from micronet.measure.pairs import find_pairs

pytestmark = pytest.mark.usefixtures("engine_ready")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with a small data set, of which one annotation is not called like its volume."""
    monkeypatch.chdir(tmp_path)
    path = write_dataset(tmp_path / "data", train=1)
    Path("annotations").mkdir()
    for name in ("validation_0", "test_0"):
        Path(f"data/{name}.seg.nrrd").rename(f"annotations/{name}.seg.nrrd")
    Path("annotations/test_0.seg.nrrd").rename("annotations/of_friday.seg.nrrd")
    text = path.read_text(encoding="utf-8").replace("test_0.seg", "of_friday.seg")
    for name in ("validation_0", "of_friday"):
        text = text.replace(f'annotation = "{name}', f'annotation = "../annotations/{name}')
    path.write_text(text, encoding="utf-8")
    return tmp_path


def names(pairs):
    return {(pair.name, pair.prediction.name, pair.annotation.name) for pair in pairs}


def test_what_all_scripts_wrote_is_left_by_infer_and_paired_by_evaluate(project, capsys):
    options = ("--dataset", "data/tiny.toml", "--data", ".", "--threads", "1", "--iterations", "2", "--project", "mine")
    assert call(train_micronet, *options, "--run", "1; val; test; bootstrap; finish", capsys=capsys)[0] == 0
    assert call(train_micrornet, *options, "--run", "load bootstrap; val; finish", capsys=capsys)[0] == 0
    model = ("--model", "ur-net_bootstrap", "--iterations", "2", "--threads", "1", "--project", "mine")
    assert call(infer, "data/validation_0.nrrd", *model, capsys=capsys)[0] == 0
    folder = project / "mine" / "predictions"
    assert not (project / "predictions").exists()
    assert (project / "mine" / "logs" / "u-net.csv").is_file()
    assert (project / "mine" / "checkpoints" / "ur-net_bootstrap.pt").is_file()
    (folder / "validation_0_look.seg.nrrd").write_bytes((folder / "validation_0.seg.nrrd").read_bytes())

    code, _, err = call(infer, folder, *model, capsys=capsys)
    assert code == 2
    assert "is a folder of results, with no volume to segment (u-net_1_test_0_probability.nrrd" in err
    (folder / "fresh.nrrd").write_bytes((project / "data" / "train_0.nrrd").read_bytes())
    code, out, _ = call(infer, folder, *model, capsys=capsys)
    assert code == 0
    assert f"note: 4 results of ours in '{folder}' are left: u-net_1_test_0_probability.nrrd, " in out
    assert f"[1/1] {folder / 'fresh.nrrd'}" in out

    expected = {
        ("test_0", "u-net_1_test_0.seg.nrrd", "of_friday.seg.nrrd"),
        ("u-net_1_validation_0", "u-net_1_validation_0.seg.nrrd", "validation_0.seg.nrrd"),
        ("ur-net_0_validation_0_2", "ur-net_0_validation_0_2.seg.nrrd", "validation_0.seg.nrrd"),
        ("validation_0", "validation_0.seg.nrrd", "validation_0.seg.nrrd"),
    }
    pairs, notes = find_pairs([folder], [project / "annotations"])
    assert names(pairs) == expected
    assert "1 predictions without annotation: fresh" in notes
    assert "several predictions of one volume are each scored, and count in the medians: validation_0 (3)" in notes
    probabilities, _ = find_pairs([folder], [project / "annotations"], probability=True)
    assert {pair.name for pair in probabilities} == {name for name, _, _ in expected}

    code, out, _ = call(evaluate, folder, "--annotation", "annotations", capsys=capsys)
    assert code == 0
    with (project / "scores" / "scores.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    assert {row["volume"] for row in rows} == {name for name, _, _ in expected}


@pytest.mark.parametrize(
    ("name", "volume"),
    [
        ("u-net_150_embryo_2.seg.nrrd", "embryo_2"),
        ("u-net-3_150_embryo_2_probability.nrrd", "embryo_2"),
        ("ur-net_48_embryo_2_10.seg.nrrd", "embryo_2"),
        ("embryo_2_probability.nrrd", "embryo_2"),
        ("embryo_2.seg.nrrd", "embryo_2"),
    ],
)
def test_without_a_record_the_name_tells_the_volume(name, volume):
    assert volume_name(Path(name)) == volume_of(Path(name)) == volume


def test_a_record_decides_and_is_not_trusted_with_paths(tmp_path):
    mask, record = tmp_path / "x.seg.nrrd", tmp_path / "x.json"
    mask.write_bytes(b"mask")

    def told(volume, maker="training", size=4):
        mark = {"name": mask.name, "bytes": size, "sha256": "0" * 64}
        write_sealed(record, {"volume": volume, "made_by": maker, "outputs": [mark]})
        return volume_of(mask)

    assert told("embryo 7") == "embryo 7"
    assert is_result(mask)
    assert told("../../x7") == told("a\nb") == told("..") == "x"
    assert told("embryo 7", size=5) == "x"  # changed since: a person's
    assert told("embryo 7", maker="prepare.py") == "x"  # what it wrote is to be looked at
    assert not is_result(mask)
    told("embryo 7")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"volume": "other"}), encoding="utf-8")
    assert read_sealed(record) is None
    assert result_record(mask) is None
