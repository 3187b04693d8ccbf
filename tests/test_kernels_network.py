"""The numba engine against float64 PyTorch: probabilities, gradients, repeats, threads, vector widths, caches."""

import ctypes
import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from float64 import Convolution, double
from microkernel_sums import check
from torch.nn.functional import conv3d, interpolate

from micronet.core.errors import InputError
from micronet.core.threads import Team, split
from micronet.networks import engine
from micronet.networks.kernels.gradient import backward, forward_saving
from micronet.networks.kernels.jit import LANES
from micronet.networks.kernels.layout import strips
from micronet.networks.kernels.microkernels import BAND, BLOCK, SELU, kernel_addresses
from micronet.networks.kernels.network import Refiner, forward, nearest_indices
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.normalize import normalize_mask
from micronet.networks.registry import model_for_state
from micronet.networks.weights import bootstrap

SHAPES = [
    (32, 32, 32),
    (33, 32, 35),
    (32, 47, 33),
    (34, 33, 64),
    (35, 41, 63),
    (36, 40, 65),
    (37, 45, 51),
    (48, 48, 48),
    (41, 36, 80),
    (50, 34, 97),
    (39, 64, 112),
    (64, 64, 64),
]
NETWORKS = [MicroNet, MicroRNet]


def model_with_biases(network, seed=5):
    torch.manual_seed(seed)
    model = network()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    return model


def arrays_of(model):
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def inputs(model, shape, rng):
    """A smooth random image with a bright tube in it, and for µr-Net its mask, normalised, float32."""
    z, y, x = np.indices(shape)
    tube = np.hypot(y - shape[1] / 2, x - shape[2] / 2 + 3 * np.sin(z / 6)) < min(shape) / 6
    image = (rng.standard_normal(shape) + 2 * tube - 0.3).astype(np.float32)
    mask = (tube * 4.588314677 - 0.05).astype(np.float32) if model.mask_channels else None
    return image, mask, tube


def stacked(image, mask):
    return torch.from_numpy(np.stack([image] if mask is None else [image, mask])[None])


def loss_gradient(probability, tube, beta_squared, weight):
    """Gradient of 1 - F-beta with respect to the probability, from its definition, in float64."""
    p = torch.tensor(probability, dtype=torch.float64, requires_grad=True)
    t, w = torch.from_numpy(tube).double(), torch.from_numpy(weight).double()
    tp, fp, total = (w * p * t).sum(), (w * p * (1 - t)).sum(), (w * t).sum()
    scaled = (1 + beta_squared) * tp
    (1 - scaled / (scaled + beta_squared * (total - tp) + fp)).backward()
    return p.grad.numpy()


# Inputs of SELU are sums of some hundred products of size 1.
ROUNDING = 6e-7


class Oracle:
    """The network in float64 PyTorch: its probability, and its gradients for any number of losses."""

    def __init__(self, model, image, mask, side=0.0):
        self.model, self.image, self.mask = model, image, mask
        self.twin = double(model)
        for module in self.twin.modules():
            if side and isinstance(module, torch.nn.SELU):
                module.register_forward_pre_hook(lambda _, given: (to_side(given[0], side),))
        self._result = self.twin(stacked(image, mask).double())
        self.probability = self._result.detach()[0, 0].numpy()
        self._last = None, {}

    def gradients(self, given):
        if self._last[0] is not given:
            self.twin.zero_grad()
            self._result.backward(torch.from_numpy(given)[None, None], retain_graph=True)
            self._last = given, {name: parameter.grad.numpy() for name, parameter in self.twin.named_parameters()}
        return self._last[1]

    def errors(self, given):
        """Norm-wise error of every parameter's gradient.

        The slope of SELU jumps at 0, from 1.76 to 1.05. An input that is nearer to 0 than float32 can tell may fall to
        either side, in PyTorch too: where the errors are large, they are those to the gradient on the better side.
        """
        _, saved = forward_saving(arrays_of(self.model), self.image, self.mask)
        found = backward(saved, given.astype(np.float32))
        errors = relative_errors(found, self.gradients(given))
        for side in (-1.0, 1.0):
            if max(errors.values()) > 1e-5:
                other = Oracle(self.model, self.image, self.mask, side).gradients(given)
                errors = min(errors, relative_errors(found, other), key=lambda each: max(each.values()))
        return errors


def to_side(x, side):
    """Move what lies within float32's rounding of 0 to one side of it."""
    return x + torch.where(x.abs() < ROUNDING, 2 * ROUNDING * side, 0.0)


def relative_errors(found, expected):
    assert set(found) == set(expected)
    return {name: np.linalg.norm(found[name] - right) / np.linalg.norm(right) for name, right in expected.items()}


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 5, 6), (33, 35, 38)], ids=str)  # the last in two blocks
def test_the_oracles_convolution_is_pytorchs(shape, rng):
    x, weight, bias = (torch.from_numpy(rng.standard_normal(n)) for n in ((1, 5, *shape), (4, 5, 3, 3, 3), (4,)))
    results = []
    for convolve in (conv3d, Convolution.apply):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        result = convolve(*inputs)
        (result * torch.cos(result.detach())).sum().backward()
        results.append([result.detach(), *(tensor.grad for tensor in inputs)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("shape", [(33, 430, 211), (32, 1000, 37)], ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_planes_too_large_for_the_caches_are_computed_in_strips_with_the_same_numbers(network, shape, rng):
    assert len(strips(*shape[1:])) > 1
    model = model_with_biases(network)
    image, mask, _ = inputs(model, shape, rng)
    found = forward(arrays_of(model), image, mask)
    whole, _ = forward_saving(arrays_of(model), image, mask)  # the decoder of training does whole planes
    np.testing.assert_array_equal(found, whole)
    engine.choose("torch")  # in float32: at this size float64 takes long
    try:
        with torch.no_grad():
            expected = model(stacked(image, mask))[0, 0].numpy()
    finally:
        engine.choose("auto")
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (150, 218), (433, 218), (1024, 1024), (33, 30000)])
def test_strips_cover_the_rows_and_start_where_pooling_and_bands_do(height, width):
    cut = strips(height, width)
    assert [row for first, end in cut for row in range(first, end)] == list(range(height))
    assert all(first % (4 * BAND) == 0 for first, _ in cut)
    assert len(strips(150, 218)) == 1


def test_a_bootstrapped_refiner_gives_the_u_nets_numbers_to_the_bit(rng):
    """Planes with weights of 0 are summed up in calls of their own: they do not change how the others are rounded."""
    model = model_with_biases(MicroNet)
    refiner = model_for_state(bootstrap(model.state_dict()))
    image, mask, _ = inputs(refiner, (37, 45, 51), rng)

    found = forward(arrays_of(refiner), image, mask)

    np.testing.assert_array_equal(found, forward(arrays_of(model), image))


def test_a_mask_is_normalised_as_it_is_read(rng):
    model = model_with_biases(MicroRNet)
    image, _, _ = inputs(model, (37, 45, 51), rng)
    refiner = Refiner(arrays_of(model), image)
    probability = rng.random(image.shape, dtype=np.float32)

    found = refiner(probability, (4.588314677411236, 0.05))

    np.testing.assert_array_equal(found, refiner(normalize_mask(probability)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_probability_and_gradients_equal_float64(network, shape, rng):
    model = model_with_biases(network)
    image, mask, tube = inputs(model, shape, rng)
    oracle = Oracle(model, image, mask)
    np.testing.assert_allclose(forward(arrays_of(model), image, mask), oracle.probability, rtol=0, atol=3e-6)
    weights = (np.ones(shape, bool), rng.random(shape) < 0.7)
    losses = list(itertools.product((0.5, 1.0, 2.0), weights))
    number = SHAPES.index(shape)
    # all six losses on the small shapes, one in turn on the others: float64 takes its time
    for beta_squared, weight in losses if number < 4 else losses[number % 6 :][:1]:
        errors = oracle.errors(loss_gradient(oracle.probability, tube, beta_squared, weight))
        assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_of_a_network_that_is_sure_everywhere(network, rng):
    """All slopes of the sigmoid are about 1e-22; only their proportions matter."""
    model = model_with_biases(network)
    with torch.no_grad():
        model.up0[-2].bias.fill_(-50.0)
    image, mask, tube = inputs(model, (33, 36, 40), rng)
    errors = Oracle(model, image, mask).errors(np.where(tube, -1e-6, 1e-7))
    assert max(errors.values()) < 3e-5, errors  # float32 holds a logit of -50 to 4e-6


@pytest.mark.parametrize("low", [1e-30, 1e-6, 1e-2, 1.0])
def test_selu_keeps_all_digits(low, rng):
    """A convolution whose one weight is 1 shows the activation alone."""
    address = kernel_addresses()[0]
    plane = np.zeros((BAND + 2, 3 * LANES), np.float32)
    plane[1:-1, LANES:-LANES] = rng.uniform(-1, 1, (BAND, LANES)) * low * 10.0 ** rng.uniform(0, 2, (BAND, LANES))
    weights = np.zeros(BLOCK, np.float32)
    weights[(1 * 3 + 1) * 4] = 1  # dx, dy in the middle, output 0
    bias = np.zeros(4, np.float32)
    taps = np.array([[plane[0, LANES:].ctypes.data, weights.ctypes.data]], np.int64)
    widened = np.zeros((4, *plane.shape), np.float32)  # rows of input and output are equally long
    begin = widened[0, 0, LANES:].ctypes.data
    convolve = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 9)(address)
    convolve(taps.ctypes.data, 1, begin, widened.strides[0], plane.strides[0], 1, 1, bias.ctypes.data, int(SELU))
    found = widened[0, :BAND, LANES:-LANES]

    expected = torch.selu(torch.from_numpy(plane[1:-1, LANES:-LANES]).double()).numpy()
    np.testing.assert_allclose(found, expected, rtol=4 * 2.0**-23, atol=0)


@pytest.mark.parametrize(
    ("network", "seed", "shape", "biases"), [(MicroNet, 6, (36, 40, 41), 1), (MicroRNet, 7, (32, 35, 40), 0)]
)
def test_gradients_of_small_and_large_weights(network, seed, shape, biases):
    """Small weights make small activations: SELU's values near 0. Large ones make errors large, PyTorch's too.

    The seeds are of networks in which no SELU input is so near to 0 that float32 takes it for one of the other sign.
    """
    errors, eager_errors = {}, {}
    for scale in (1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        model = model_with_biases(network, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale if parameter.ndim > 1 else scale * biases)
        image, mask, tube = inputs(model, shape, np.random.default_rng(3))
        oracle = Oracle(model, image, mask)
        given = loss_gradient(oracle.probability, tube, 1.0, np.ones(shape)).astype(np.float32)
        right = oracle.gradients(given.astype(float))
        _, saved = forward_saving(arrays_of(model), image, mask, 1)
        found = backward(saved, given)
        errors[scale] = _worst(found, right)
        if scale in (1e-3, 3.0):
            _eager(model, stacked(image, mask)).backward(torch.from_numpy(given)[None, None])
            eager_errors[scale] = _worst({name: p.grad.numpy() for name, p in model.named_parameters()}, right)
    assert all(error < 1e-5 for scale, error in errors.items() if scale not in eager_errors), errors
    assert all(errors[scale] <= 2 * error for scale, error in eager_errors.items()), (errors, eager_errors)


def _worst(found, right):
    """Return the largest error of any tensor, as a part of its largest value; 0 where all are 0, as without a slope."""
    return max((np.abs(found[name] - g).max() / np.abs(g).max() for name, g in right.items() if g.any()), default=0.0)


@pytest.fixture(scope="module")
def published_volume(shared):
    """Return a published volume, normalised, and its annotation, (64, 96, 112)."""
    with np.load(shared / "golden" / "forward_64x96x112.npz", allow_pickle=False) as golden:
        volume, annotation = golden["image"].astype(np.float32), golden["annotation"] > 0
    return (volume - volume.mean()) / volume.std(ddof=1), annotation


def published(network, file, shared):
    model = network()
    path = shared / "data" / "yolk_sac" / "trained_models" / file
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def crop_of(published_volume, shape, model):
    """Return image, mask and annotation in the middle of the published volume."""
    volume, annotation = published_volume
    crop = tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(volume.shape, shape, strict=True))
    tube = annotation[crop]
    mask = (tube * 4.588314677 - 0.05).astype(np.float32) if model.mask_channels else None
    return np.ascontiguousarray(volume[crop]), mask, tube


PUBLISHED = [(MicroNet, "u-net_1600.pt"), (MicroRNet, "ur-net_b0.5_1200.pt")]


@pytest.mark.parametrize(
    ("network", "file", "shapes"),
    [(*PUBLISHED[0], SHAPES[:6:2]), (*PUBLISHED[1], SHAPES[1:6:2])],
    ids=["u-net", "ur-net"],
)
def test_gradients_at_published_weights(network, file, shapes, shared, published_volume):
    """Small crops: a SELU input that rounds to the other side of 0 shows, in float32 PyTorch as much as here."""
    model = published(network, file, shared)
    ratios = []
    for shape in shapes:
        image, mask, tube = crop_of(published_volume, shape, model)
        oracle = Oracle(model, image, mask)
        given = loss_gradient(oracle.probability, tube, 1.0, np.ones(shape))
        error = max(oracle.errors(given).values())
        model.zero_grad()
        _eager(model, stacked(image, mask)).backward(torch.from_numpy(given.astype(np.float32))[None, None])
        eager = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
        ratios.append(error / max(relative_errors(eager, oracle.gradients(given)).values()))
        assert error < 6e-5, (shape, error)
    assert np.median(ratios) < 1.3, ratios  # 1.0


@pytest.mark.parametrize(
    ("network", "file", "shape", "beta_squared"),
    [(*PUBLISHED[0], (64, 96, 112), 0.5), (*PUBLISHED[1], (64, 33, 80), 2.0)],
    ids=["u-net", "ur-net"],
)
def test_published_weights_on_a_published_volume(network, file, shape, beta_squared, shared, published_volume):
    model = published(network, file, shared)
    image, mask, tube = crop_of(published_volume, shape, model)
    oracle = Oracle(model, image, mask)
    with torch.no_grad():
        eager_error = np.std(_eager(model, stacked(image, mask))[0, 0].numpy() - oracle.probability)
    assert np.std(forward(arrays_of(model), image, mask) - oracle.probability) < 1.3 * eager_error  # 0.8 to 1.2
    errors = oracle.errors(loss_gradient(oracle.probability, tube, beta_squared, np.ones(shape)))
    assert max(errors.values()) < 1e-5, errors


def _eager(model, x):
    engine.choose("torch")
    try:
        return model(x)
    finally:
        engine.choose("auto")


def test_nearest_indices_are_pytorchs_at_every_width():
    for width in range(32, 600):
        source = torch.arange(width // 4, dtype=torch.float64)[None, None]
        shown = interpolate(source, size=width)[0, 0].numpy()
        found = nearest_indices((width, width, width), (width // 4,) * 3)
        np.testing.assert_array_equal(found[2], shown)


def test_one_thread_repeats_bit_for_bit_and_more_threads_agree(rng):
    model = model_with_biases(MicroRNet)
    parameters = arrays_of(model)
    image, mask, tube = inputs(model, (45, 37, 50), rng)
    runs = []
    for threads in (1, 1, 2, 3):
        probability, saved = forward_saving(parameters, image, mask, threads)
        runs.append((probability, backward(saved, tube.astype(np.float32))))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    for name, gradient in runs[0][1].items():
        np.testing.assert_array_equal(gradient, runs[1][1][name])
    for probability, gradients in runs[2:]:
        np.testing.assert_array_equal(probability, runs[0][0])
        for name, gradient in runs[0][1].items():
            np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())


def test_backward_may_run_twice(rng):
    model = model_with_biases(MicroNet)
    image, _, tube = inputs(model, (32, 40, 36), rng)
    _, saved = forward_saving(arrays_of(model), image, None, 2)
    first, second = backward(saved, tube.astype(np.float32)), backward(saved, tube.astype(np.float32))
    for name, gradient in first.items():
        np.testing.assert_array_equal(gradient, second[name])


def test_refiner_gives_what_separate_passes_give(rng):
    model = model_with_biases(MicroRNet)
    image, mask, _ = inputs(model, (36, 33, 40), rng)
    refiner = Refiner(arrays_of(model), image)
    for given in (mask, np.zeros_like(mask), mask):
        np.testing.assert_array_equal(refiner(given), forward(arrays_of(model), image, given))


def test_four_python_threads_at_once(rng):
    model = model_with_biases(MicroNet)
    images = [inputs(model, (33 + k, 34, 37), rng)[0] for k in range(4)]
    expected = [forward(arrays_of(model), image, None, 1) for image in images]
    found = [None] * 4

    def work(k):
        found[k] = forward(arrays_of(model), images[k], None, 2)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_in_the_image_shows_in_the_probability(rng):
    model = model_with_biases(MicroNet)
    image = inputs(model, (32, 32, 32), rng)[0]
    image[10, 11, 12] = np.nan
    assert np.isnan(forward(arrays_of(model), image)[10, 11, 12])


def test_wrong_input_is_refused(rng):
    u_net, ur_net = arrays_of(MicroNet()), arrays_of(MicroRNet())
    image = np.zeros((32, 32, 32), np.float32)
    with pytest.raises(InputError, match="axes of at least 32"):
        forward(u_net, image[:31])
    with pytest.raises(InputError, match=r"a ur-net takes 1 mask\(s\), 0 given"):
        forward(ur_net, image)
    with pytest.raises(InputError, match=r"a u-net takes 0 mask\(s\), 1 given"):
        forward(u_net, image, image)
    with pytest.raises(InputError, match=r"mask: shape \(32, 32, 33\) differs from the image's"):
        forward(ur_net, image, np.zeros((32, 32, 33), np.float32))


def test_split_covers_everything_once_at_multiples():
    assert split(10, 3) == [(0, 3), (3, 7), (7, 10)]
    assert split(217, 2, 4) == [(0, 108), (108, 217)]
    for length in (2, 8, 9, 33, 54):
        for parts in (1, 2, 3, 5, 16):
            for step in (1, 4):
                ranges = split(length, parts, step)
                assert [z for a, b in ranges for z in range(a, b)] == list(range(length))
                assert len(ranges) <= parts
                assert all(a % step == 0 for a, _ in ranges)


def test_team_raises_the_first_error_after_all_are_done():
    def job(n):
        if n:
            raise ValueError(f"part {n}")

    with Team(3) as team, pytest.raises(ValueError, match="part 1"):
        team.run(job, [(0,), (1,), (2,)])


CHECK = """
import sys

import numba
import numpy as np
from microkernel_sums import check

from micronet.networks.kernels import jit
from micronet.networks.kernels.gradient import backward, forward_saving
from micronet.networks.kernels.microkernels import kernel_addresses
from micronet.networks.kernels.network import forward

kernel_addresses()
check()
numba.config.OPT = 0
with np.load(sys.argv[1]) as file:
    arrays = dict(file)
image, mask, given, expected = (arrays.pop(name) for name in ("image", "mask", "given", "probability"))
parameters, gradients = ({n[1:]: a for n, a in arrays.items() if n[0] == kind} for kind in "pg")
if "forward" in sys.argv:
    assert np.abs(forward(parameters, image, mask) - expected).max() < 3e-6
else:
    probability, saved = forward_saving(parameters, image, mask)
    assert np.abs(probability - expected).max() < 3e-6
    found = backward(saved, given)
    for name, right in gradients.items():
        assert np.linalg.norm(found[name] - right) < 1e-5 * np.linalg.norm(right), name
assert "torch" not in sys.modules
print(jit.LANES)
"""


@pytest.fixture(scope="module")
def float64s_numbers(tmp_path_factory):
    """Return a file of a network, its inputs, and what float64 makes of them."""
    rng = np.random.default_rng(3)
    torch.manual_seed(1)
    model = MicroRNet()
    image, mask = rng.standard_normal((2, 33, 37, 45)).astype(np.float32)
    given = (rng.random(image.shape) < 0.2).astype(np.float32)
    oracle = Oracle(model, image, mask)
    path = tmp_path_factory.mktemp("float64") / "numbers.npz"
    arrays = {"image": image, "mask": mask, "given": given, "probability": oracle.probability}
    arrays |= {f"p{name}": array for name, array in arrays_of(model).items()}
    arrays |= {f"g{name}": array for name, array in oracle.gradients(given.astype(float)).items()}
    np.savez(path, **arrays)
    return path


def run_other_width(code, lanes, *arguments):
    """Run code at a width that need not be this machine's; check that it was at that width."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "MICRONET_LANES": str(lanes), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == lanes


@pytest.mark.slow
@pytest.mark.parametrize("lanes", sorted({1, 4, 8, 16} - {LANES}))
def test_every_vector_width_gives_float64s_numbers(lanes, float64s_numbers, tmp_path, monkeypatch):
    """All instructions that depend on the width are the micro-kernels', compiled as they are shipped.

    Of what drives them, only where things lie depends on it. That is compiled plainly, which takes half the time, and
    kept apart from the kernels that other tests and people use: forward and backward at one width that is not this
    machine's, forward alone at the others, and at this machine's the tests above do both.
    """
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    both = max({4, 8} - {LANES})
    run_other_width(CHECK, lanes, str(float64s_numbers), *(() if lanes == both else ("forward",)))


def test_the_micro_kernels_give_float64s_sums():
    """At this machine's width; those of the others are checked above, where they are compiled."""
    check()


def test_unknown_vector_width_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import micronet.networks.kernels.jit"],
        env={**os.environ, "MICRONET_LANES": "5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MICRONET_LANES is '5'; it must be 1, 4, 8 or 16" in done.stderr


def test_cache_folder_falls_back_where_nothing_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file, so no folder can be made in it")
    code = "from micronet.networks.kernels.jit import cache_folder; print(cache_folder())"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked), "XDG_CACHE_HOME": str(blocked)}

    def folder(**more):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **more}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert folder(TMPDIR=str(tmp_path)).startswith(str(tmp_path))
    writable = tmp_path / "cache"
    assert folder(NUMBA_CACHE_DIR=str(writable)).startswith(str(writable))
