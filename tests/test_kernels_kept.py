"""Memory that steps leave to each other: reused only when nobody looks at it any more, and never seen in a result."""

import numpy as np
import pytest
from test_kernels_network import NETWORKS, arrays_of, inputs, model_with_biases

from micronet.networks.kernels import kept
from micronet.networks.kernels.gradient import backward, forward_saving
from micronet.networks.kernels.layout import LEFT, TOP, kept_stack, new_stack


@pytest.fixture(autouse=True)
def nothing_kept():
    kept.forget()
    yield
    kept.forget()


def address(array):
    return array.ctypes.data


def test_the_first_array_is_zeros_and_the_next_one_lies_where_it_lay():
    array, zeros = kept.lend(1000)
    assert zeros
    assert not array.any()
    place = address(array)
    array[:] = 7
    del array
    array, zeros = kept.lend(900)
    assert not zeros
    assert (address(array), array[0]) == (place, 7)


def test_memory_is_not_lent_while_a_view_of_a_view_of_it_is_held():
    array, _ = kept.lend(1000)
    place, view = address(array), array[:600].reshape(2, 300)[1:]
    del array
    other, zeros = kept.lend(1000)
    assert zeros
    assert address(other) != place
    del view
    third, zeros = kept.lend(1000)
    assert not zeros
    assert address(third) == place


def test_the_smallest_that_fits_is_lent():
    large, small = kept.lend(3000)[0], kept.lend(1000)[0]
    places = address(small), address(large)
    del large, small
    first, second = kept.lend(800)[0], kept.lend(800)[0]
    assert (address(first), address(second)) == places


def test_what_is_too_small_makes_way():
    array, _ = kept.lend(1000)
    del array
    larger = kept.lend(2000)
    assert larger[1]
    assert kept.lend(500)[1]  # nothing else was kept


def test_a_little_is_not_put_where_much_fits():
    large = kept.lend(9000)[0]
    place = address(large)
    small = kept.lend(10)[0]
    del large
    assert kept.lend(1000)[1]
    assert address(kept.lend(9000)[0]) == place
    del small


def test_of_buffers_much_too_large_the_one_that_lay_idle_longest_makes_way():
    first, second = kept.lend(9000)[0], kept.lend(9000)[0]
    places = address(first), address(second)
    del first
    del second
    small = kept.lend(10)[0]  # two at most, as before
    assert [address(buffer) for buffer, _ in kept._kept] == [places[1]]
    del small


def test_what_is_forgotten_is_gone():
    array, _ = kept.lend(1000)
    del array
    kept.forget()
    assert kept.lend(1000)[1]


@pytest.mark.parametrize("new", [new_stack, kept_stack])
def test_planes_start_where_a_cache_line_does(new):
    stack = new(3, 4, 40, 50)
    assert address(stack) % 64 == 0
    assert stack.strides[2] % 64 == 0 or stack.shape[3] % 16


def test_a_layout_is_remembered_until_somebody_else_used_the_memory():
    array, _ = kept.lend(1000, (40, 50))
    del array
    array, clean = kept.lend(900, (40, 50))
    assert clean
    del array
    array, clean = kept.lend(900, (50, 40))
    assert not clean
    del array
    array, clean = kept.lend(1000)
    assert not clean
    del array
    assert not kept.lend(900, (50, 40))[1]


def test_of_equal_buffers_the_one_of_the_same_layout_is_lent():
    first, second = kept.lend(1000, (1, 2))[0], kept.lend(1000, (3, 4))[0]
    places = address(first), address(second)
    del first, second
    assert address(kept.lend(1000, (3, 4))[0]) == places[1]


def test_a_kept_stack_is_zeros_around_its_planes():
    stack = kept_stack(3, 4, 40, 50)
    stack[:] = np.nan
    del stack
    stack = kept_stack(3, 4, 33, 35)
    around = np.ones(stack.shape, bool)
    around[:, :, TOP - 1 : TOP + 34, LEFT - 1 : LEFT + 36] = False
    assert (stack[around] == 0).all()
    assert np.isnan(stack[~around]).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_what_a_step_left_changes_no_number_of_the_next(network):
    """Not even NaNs: in every place of the memory, or left by a step of the same size or of others."""
    model = model_with_biases(network)
    parameters = arrays_of(model)

    def step(shape, factor=1):
        image, mask, _ = inputs(model, shape, np.random.default_rng(3))
        probability, saved = forward_saving(parameters, image * np.float32(factor), mask, 2)
        return [probability, *backward(saved, probability - 0.5).values()]

    def assert_as_alone(shape):
        for found, number in zip(step(shape), alone[shape], strict=True):
            np.testing.assert_array_equal(found, number)

    shapes = [(37, 45, 51), (64, 33, 40), (37, 45, 51), (32, 32, 70)]
    alone = {}
    for shape in shapes:
        kept.forget()
        alone[shape] = step(shape)
    for shape in shapes:
        kept.lend(0)
        for place, (buffer, _) in enumerate(kept._kept):
            buffer[:] = np.nan
            kept._kept[place] = buffer, None
        assert_as_alone(shape)
        assert np.isnan(step(shape, np.nan)[0]).any()
        assert_as_alone(shape)


def test_steps_take_no_more_memory_than_the_first():
    model = model_with_biases(NETWORKS[0])
    image, mask, _ = inputs(model, (37, 45, 51), np.random.default_rng(3))
    held = []
    for _ in range(6):
        probability, saved = forward_saving(arrays_of(model), image, mask, 1)
        backward(saved, probability - 0.5)
        del probability, saved
        held.append(sorted(len(buffer) for buffer, _ in [*kept._kept, *kept._returned]))
    assert {len(lengths) for lengths in held} == {len(held[0])}
    assert max(sum(lengths) for lengths in held) < 1.1 * sum(held[0])  # one may lie where a larger one has lain
