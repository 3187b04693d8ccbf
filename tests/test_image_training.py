"""A network learns what images hold from a yes or no each, at the prompt of the others, and resumes bit for bit."""

import io
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from running import call, call_for_last_line, read_json
from tiny_training import ctrl_c_when, unfinished
from torch import nn

import infer
import train_network
from micronet import load_model
from micronet.core.errors import InputError
from micronet.data.augmentation import IMAGES, View
from micronet.data.image_samples import Cut, ImageSample, Part, boxes_of, whole_box
from micronet.networks.micranet import MicraNet
from micronet.networks.weights import load_state
from micronet.training.image_crops import ImageCrops
from micronet.training.presence import IMAGE_PRACTICE, IMAGE_RECIPE, PresenceTrainer, presence_of

pytestmark = pytest.mark.usefixtures("one_thread")


def image_with(dot, line, seed, shape=(16, 20)):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.2, shape)
    y, x = (int(rng.integers(2, length - 3)) for length in shape)
    if line:
        image[y] += 3
    if dot:
        image[y - 1 : y + 2, x - 1 : x + 2] -= 5
    return image[None].astype(np.float32)


def sample(name, labels, seed, shape=(16, 20)):
    image = image_with(*labels, seed, shape)
    return ImageSample.of(name, image, [Part(whole_box(image.shape), np.array(labels, np.int8))])


def samples(count, seed=0):
    return [sample(f"{seed}-{n}", ((n // 2) % 2, n % 2), 1000 * seed + n) for n in range(count)]


def block_samples(shape=(16, 16, 24), cut=None):
    """Volumes whose voxels are the label of their block, and noise."""
    rng = np.random.default_rng(4)
    grid = rng.integers(0, 2, [-(-length // 8) for length in shape]).astype(np.int8)
    image = np.kron(grid, np.ones((8, 8, 8)))[tuple(map(slice, shape))] + rng.normal(0, 0.1, shape)
    cut = cut or Cut((8, 16, 16), (8, 8, 8), block=8)
    return ImageSample.of_blocks("v", image.astype(np.float32), grid[None], 8, cut)


def trainer(train, validation=(), dimensions=2, seed=7, validate_every=5, **practice):
    torch.manual_seed(1)
    classes = ("dot", "line") if train[0].block is None else ("lumen",)
    recipe = replace(IMAGE_RECIPE, validate_every=validate_every)
    asked = replace(IMAGE_PRACTICE, **{"batch_size": 4} | practice)
    return PresenceTrainer(MicraNet(dimensions, classes, 4), train, validation, recipe, seed, asked)


def work(one, steps=None):
    done, validations = [], []
    one.run(done.append, validations.append, lambda: steps is not None and len(done) >= steps)
    return done, validations


def bits(one):
    return {key: tensor.numpy().tobytes() for key, tensor in one.model.state_dict().items()}


def test_what_images_hold_is_learned_from_a_yes_or_no_each():
    one = trainer(samples(48), samples(16, 1), lr=5e-3)
    one.begin(10)
    _, validations = work(one)
    assert validations[-1].f > 0.9
    assert [score.name for score in validations[-1].presence] == ["dot", "line"]
    assert min(score.average_precision for score in validations[-1].presence) > 0.9


def test_it_is_adam_whose_rate_falls_where_the_validation_loss_does_not():
    assert (IMAGE_PRACTICE.optimizer, IMAGE_PRACTICE.schedule, IMAGE_PRACTICE.loss) == (
        "adam",
        "plateau",
        "weighted_bce",
    )
    one = trainer(samples(8), samples(4, 1))
    one.begin(1)
    work(one, steps=1)
    assert isinstance(one.optimizer, torch.optim.Adam)


@pytest.mark.parametrize(
    ("blocks", "optimizer"),
    [(True, "adam"), (False, "adam"), (False, "sgd"), (False, "rmsprop"), (False, "soap")],
)
def test_a_resumed_training_ends_with_the_same_bits_as_one_that_never_stopped(blocks, optimizer):
    data = ([block_samples()], [block_samples()], 3) if blocks else (samples(10), samples(4, 1), 2)
    how = {"optimizer": optimizer, "lr": 1e-2, "weight_decay": 1e-4}
    whole = trainer(*data, **how)
    whole.begin(2)
    work(whole)

    first = trainer(*data, **how)
    first.begin(2)
    work(first, steps=2)  # in the middle of an epoch
    stream = io.BytesIO()
    torch.save(first.state(), stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    torch.manual_seed(99)
    again = trainer(*data, **how)
    again.restore(state, first.begun)
    torch.manual_seed(100)  # dropout does not depend on what was drawn meanwhile
    work(again)
    assert (again.step, again.best_f, again.course) == (whole.step, whole.best_f, whole.course)
    assert bits(again) == bits(whole)


@pytest.mark.parametrize("loss", ["weighted_bce", "bce"])
def test_the_loss_is_pytorchs_with_the_classes_weighted_by_how_rare_they_are(loss):
    data = [sample(str(n), (int(n < 1), int(n < 3)), n) for n in range(4)]  # 1 and 3 of 4
    one = trainer(data, loss=loss, lr=1e-3)
    batch = one._crops.batch(1, 0, 0)
    assert batch.x.shape == (4, 1, 1, 16, 20)
    assert sorted(map(tuple, batch.target.tolist())) == [(0, 0), (0, 1), (0, 1), (1, 1)]
    one.model.dropout.p = 0.0
    weights = torch.tensor([3.0, 1 / 3]) if loss == "weighted_bce" else torch.ones(2)
    one.model.train()
    expected = nn.functional.binary_cross_entropy_with_logits(
        one.model.scores(batch.x), batch.target, pos_weight=weights
    )
    probability, found = one._looked(batch.x, batch.target, None, 0)
    torch.testing.assert_close(found, expected)
    assert probability.shape == (4, 2)


def test_labels_that_nobody_gave_do_not_count_in_the_loss():
    known, unknown = samples(4), [replace(one, parts=one.parts) for one in samples(4)]
    unknown[0] = replace(unknown[0], parts=(replace(unknown[0].parts[0], labels=np.array([-1, -1], np.int8)),))
    for data in (known, unknown):
        one = trainer(data, loss="bce")
        batch = one._crops.batch(1, 0, 0)
        assert (batch.weight is None) == (data is known)
    one.model.dropout.p = 0.0
    each = nn.functional.binary_cross_entropy_with_logits(
        one.model.train().scores(batch.x), batch.target, reduction="none"
    )
    _, loss = one._looked(batch.x, batch.target, batch.weight, 0)
    assert loss.item() == pytest.approx((each * batch.weight).sum().item() / 6)


def test_an_epoch_shows_every_part_once_in_batches_of_one_shape():
    rng = np.random.default_rng(6)
    parts = [ImageSample.of(str(n), rng.random((1, 9, 9 + n % 2)), []) for n in range(7)]
    parts = [replace(one, parts=(Part(whole_box(one.shape), np.array([1], np.int8)),)) for one in parts]
    crops = ImageCrops(parts, 3, None, 5)
    assert crops.batches_a_pass == 3
    batches = [crops.batch(1, number, 0).x for number in range(3)]
    assert sorted(batch.shape[-1] for batch in batches) == [9, 9, 10]
    assert {len(batch) for batch in batches} == {2, 3}
    others = [crops.batch(2, number, 0).x for number in range(3)]
    assert any(one.shape != two.shape or not torch.equal(one, two) for one, two in zip(batches, others, strict=True))


def test_labels_of_blocks_are_mirrored_with_the_image():
    one = block_samples((16, 32, 24), Cut(block=8))
    crops = ImageCrops([one], 2, IMAGES, 3)
    seen = set()
    for step in range(12):
        batch = crops.batch(1, step % crops.batches_a_pass, step)
        means = nn.functional.avg_pool3d(batch.x, 8)
        assert torch.equal(means > 0, batch.target > 0)
        seen.add(tuple(batch.target.flatten().tolist()))
    assert len(seen) > 4


def test_an_axis_whose_last_block_is_shorter_is_not_mirrored():
    shape = (8, 8, 12)
    image = np.broadcast_to(np.arange(12.0), shape).astype(np.float32)
    one = ImageSample.of_blocks("v", image, np.array([1, 0], np.int8).reshape(1, 1, 1, 2), 8)
    crops = ImageCrops([one], 1, replace(IMAGES, contrast=0.0, brightness=0.0, gamma=0.0), 3)
    for step in range(8):
        assert (np.diff(crops.batch(1, 0, step).x.numpy(), axis=-1) > 0).all()


def test_greys_change_half_of_the_time_and_keep_their_order():
    rng = np.random.default_rng(2)
    views = [IMAGES.draw_of(((0, 4), (0, 4), (0, 4)), rng) for _ in range(400)]
    toned, curved = (np.mean([getattr(view, name) != 1 for view in views]) for name in ("gain", "exponent"))
    assert 0.4 < toned < 0.6
    assert 0.4 < curved < 0.6
    seen = np.linspace(-1, 3, 9, dtype=np.float32)
    View(((0, 9),), (False,), 1.0, 0.0, 0.0, 0, exponent=2.0).tone(seen)
    np.testing.assert_allclose(seen, 4 * np.linspace(0, 1, 9) ** 2 - 1, atol=1e-6)


def test_probabilities_come_back_by_image_and_part():
    torch.manual_seed(2)
    model = MicraNet(2, ("dot", "line"), 2)
    data = samples(3)
    told = [presence_of(model, one)[0] for one in data]
    alone = presence_of(model, data[2])[0]
    assert np.array_equal(told[2], alone)
    assert alone.shape == (2,)


def test_parts_looked_at_together_have_the_probabilities_that_each_has_alone():
    torch.manual_seed(2)
    model = MicraNet(2, ("dot", "line"), 2)
    image = image_with(1, 1, 3, (40, 70))
    cut = Cut((1, 16, 16), (1, 16, 16))
    labels = np.array([1, 1], np.int8)
    parts = [Part(box, labels) for box in (*boxes_of(image.shape, cut), whole_box(image.shape))]
    together = presence_of(model, ImageSample.of("a", image, parts))
    alone = [presence_of(model, ImageSample.of("a", image, [part]))[0] for part in parts]
    assert len(together) == len(parts) == 16
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "dimensions", "practice", "message"),
    [
        ([sample("a", (1, 0), 1), sample("b", (1, 0), 2)], 2, {}, "every class is in all training images, or in none"),
        (samples(4), 3, {}, "seen plane by plane, and a 3-D network sees several"),
        ([block_samples()], 2, {}, "8 planes are seen at a time, and a 2-D network sees one"),
        ([block_samples(), *samples(1)], 3, {}, "some images have labels of blocks, others not"),
        (samples(4), 2, {"loss": "dice"}, "learned by the losses weighted_bce, bce, found dice"),
        ([replace(samples(1)[0], parts=())], 2, {}, "nothing can be learned"),
        # Steps of 2 and 1: before, the second ended in an internal error.
        ([sample(str(n), (n % 2, 0), n, (8, 8)) for n in range(3)], 2, {"batch_size": 2}, "is too little for a step"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(data, dimensions, practice, message):
    with pytest.raises(InputError, match=message):
        trainer(data, dimensions=dimensions, **practice)


# --- the script ---


def write_set(folder):
    lines = ["name,split,dot,line,rare"]
    for number in range(14):
        labels = ((number // 2) % 2, number % 2)
        image = image_with(*labels, number)[0]
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.clip(100 + 20 * image, 0, 255).astype(np.uint8)).save(folder / f"im{number}.png")
        lines.append(f"im{number},{'train' if number < 9 else 'validation'},{labels[0]},{labels[1]},0")
    (folder / "labels.csv").write_text("\n".join(lines))
    (folder / "set.toml").write_text('labels = "image"\ntable = "labels.csv"\n[defaults]\nimage = "{name}.png"\n')
    return folder / "set.toml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_set(tmp_path / "data")


def trained(*more, run, capsys):
    options = ("--network", "micranet", "--dimensions", "2", "--start-channels", "2", "--threads", "1")
    return call(train_network, *options, "--dataset", "data/set.toml", "--run", run, *more, capsys=capsys)


def test_the_script_trains_tells_saves_and_resumes_like_the_others(project, tmp_path, capsys):
    scalars = ["--tensorboard"] if find_spec("tensorboard") else []
    code, out, err = trained("--validate-every", "2", *scalars, run="2; val; save mine; finish", capsys=capsys)
    assert code == 0, out + err
    assert "note: class rare is never in 9 images that are labelled (train): it cannot be learned" in out
    assert "note: class rare is never in 5 images that are labelled (validation): it cannot be scored" in out
    assert out.count("average precision") >= 6
    table = next((tmp_path / "predictions").glob("micranet_2_validation_classes.csv")).read_text()
    rows = [line.split(",") for line in table.splitlines() if not line.startswith("#")]
    assert rows[0] == ["name", "z_first", "z_end", "y_first", "y_end", "x_first", "x_end", "dot", "line", "rare"] + [
        f"label of {name}" for name in ("dot", "line", "rare")
    ]
    assert [row[0] for row in rows[1:]] == [f"im{number}" for number in range(9, 14)]
    assert rows[1][1:7] == ["0", "1", "0", "16", "0", "20"]
    record = read_json(tmp_path / "predictions" / "micranet_2_validation_classes.json")
    assert record["classes"]["rare"]["average_precision"] is None
    assert record["classes"]["line"]["with"] == 3

    model = load_model(tmp_path / "checkpoints" / "micranet_mine.pt")
    assert model.classes == ("dot", "line", "rare")
    card = read_json(tmp_path / "checkpoints" / "micranet_mine.json")
    assert card["build"] == {"dimensions": 2, "classes": ["dot", "line", "rare"], "start_channels": 2}
    assert not scalars or any((tmp_path / "logs" / "micranet").iterdir())

    code, out, err = call(
        train_network, "--network", "micranet", "--resume", "--threads", "1", "--run", "1; finish", capsys=capsys
    )
    assert code == 0, out + err
    assert "resumed micranet at step 2" in out
    assert "now at step 3" in out


def test_ctrl_c_saves_it_and_what_is_left_ends_with_the_same_bits(project, tmp_path, capsys):
    code, out, err = trained("--project", tmp_path / "whole", run="60; finish", capsys=capsys)
    assert code == 0, out + err
    log = tmp_path / "logs" / "micranet.csv"
    with ctrl_c_when(lambda: log.is_file() and log.read_text(encoding="utf-8").count("\n") > 10):
        code, out, err = trained(run="60; finish", capsys=capsys)
    assert (code, err) == (130, "")
    assert "> finish" not in out
    assert not unfinished(tmp_path)
    again = ("--network", "micranet", "--resume", "--threads", "1", "--run", "finish")
    code, out, err = call(train_network, *again, capsys=capsys)
    assert code == 0, out + err
    whole, resumed = ({path.name: load_state(path) for path in folder.glob("checkpoints/*.pt")}
                      for folder in (tmp_path / "whole", tmp_path))  # fmt: skip
    assert any(name.endswith("_60.pt") for name in whole)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name][key], resumed[name][key]) for name in whole for key in whole[name])


def test_a_folder_of_saved_weights_with_their_cards_is_a_zoo(project, tmp_path, capsys):
    """Before, a network in a folder was found with its whole file name only, and the folder itself told of nothing."""
    code, out, err = trained(run="1; save one; 1; save two; finish", capsys=capsys)
    assert code == 0, out + err
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for name in ("one", "two"):
        for kind in (".pt", ".json"):
            shutil.copy(tmp_path / "checkpoints" / f"micranet_{name}{kind}", zoo)
    both = ("--model", "zoo/micranet_one", "--model", "zoo/micranet_two", "--threads", "1")
    code, out, err = call(infer, "data", *both, capsys=capsys)
    assert code == 0, out + err
    assert "14 done" in out
    record = read_json(tmp_path / "predictions" / "im3.json")
    cards = [read_json(zoo / f"micranet_{name}.json") for name in ("one", "two")]
    assert [one["sha256"] for one in record["weights"]["members"]] == [card["outputs"][0]["sha256"] for card in cards]
    assert [card["step"] for card in cards] == [1, 2]
    assert {tuple(card["build"]["classes"]) for card in cards} == {("dot", "line", "rare")}
    code, _, err = call_for_last_line(infer, "data", "--model", "zoo", capsys=capsys)
    assert code == 2
    assert "'zoo' is a folder of weights: give one of them (--model): zoo/micranet_one.pt, zoo/micranet_two.pt" in err


def test_commands_that_make_no_sense_for_it_cost_a_line_and_find_lr_proposes(project, capsys):
    code, out, err = trained(run="find lr; rp 2", capsys=capsys)
    assert "find_lr.png" in out
    assert code == 2
    assert "β² is of the loss fbeta" in err + out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--depth 3", "MICRA-Net has no --depth"),
        ("--norm group --kernel-size 5", "MICRA-Net has no --kernel-size, --norm"),
        ("--crop-size 8,8", "--crop-size: the data set says what is seen of an image"),
        ("--samples-per-volume 3", "--samples-per-volume: the data set says what is seen"),
        ("--loss dice", "--loss dice: what images hold is learned by one of weighted_bce, bce"),
        ("--lr 1e-5", "the rate begins at 1e-05, below its least"),
        ("--start-channels 500 --dimensions 3", "at most 100,000,000 are built: make it smaller"),
        ("--max-params 1000", "parameters, more than --max-params 1,000"),
    ],
)
def test_options_that_do_not_apply_are_refused_in_a_line(project, options, message, capsys):
    code, _, err = call_for_last_line(
        train_network,
        *("--network", "micranet", "--dimensions", "2", "--dataset", "data/set.toml", "--run", "1"),
        *options.split(),
        capsys=capsys,
    )
    assert code == 2
    assert message in err


def test_other_networks_refuse_the_data_set_in_a_line(project, capsys):
    options = ("--network", "unet", "--dataset", "data/set.toml", "--run", "1")
    code, _, err = call_for_last_line(train_network, *options, capsys=capsys)
    assert code == 2
    assert 'says what each image holds (labels = "image"), which trains micranet (--network)' in err
