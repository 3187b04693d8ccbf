"""Classes of voxels: colours that are told apart, names that can be written."""

import pytest

from micronet.core.classes import ANNOTATION_COLOUR, MOST_CLASSES, check_classes, colour, rgb
from micronet.core.errors import InputError
from micronet.report.panels import MASK_COLOUR

# Hunt's cone responses of a colour, and what a person without one kind of cones sees in its place (Viénot et al. 1999).
_CONES = ((17.8824, 43.5161, 4.11935), (3.45565, 27.1554, 3.86714), (0.0299566, 0.184309, 1.46709))
_WITHOUT = {
    "red": ((0, 2.02344, -2.52581), (0, 1, 0), (0, 0, 1)),
    "green": ((1, 0, 0), (0.494207, 0, 1.24827), (0, 0, 1)),
}


def _linear(hexadecimal):
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb(hexadecimal)]


def _applied(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def test_the_first_class_has_the_colour_of_a_single_mask_and_none_that_of_an_annotation():
    assert colour(1) == MASK_COLOUR == "#E69F00"
    assert ANNOTATION_COLOUR not in {colour(number) for number in range(1, MOST_CLASSES + 1)}


def test_no_two_classes_have_the_same_colour():
    colours = [colour(number) for number in range(1, MOST_CLASSES + 1)]
    assert len(set(colours)) == MOST_CLASSES
    assert all(len(one) == 7 and 0 <= min(rgb(one)) <= max(rgb(one)) <= 1 for one in colours)


@pytest.mark.parametrize("lacking", ["red", "green"])
def test_the_first_colours_are_told_apart_by_people_who_lack_cones(lacking):
    seen = [_applied(_WITHOUT[lacking], _applied(_CONES, _linear(colour(n)))) for n in range(1, 7)]
    for number, one in enumerate(seen):
        for other in seen[:number]:
            assert max(abs(a - b) / max(a, b) for a, b in zip(one, other, strict=True)) > 0.25


def test_a_class_that_no_file_can_hold_has_no_colour():
    with pytest.raises(InputError, match="counted from 1 to 255, found 0"):
        colour(0)


def test_names_come_back_in_their_order():
    assert check_classes(iter(["wall", "lumen", "vessel wall"])) == ("wall", "lumen", "vessel wall")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "1 to 255 classes, found 0"),
        ([str(number) for number in range(256)], "found 256"),
        (["lumen", ""], "without space around it"),
        ([" lumen"], "without space around it"),
        (["a\nb"], "can be printed"),
        (["a" * 41], "at most 40"),
        (["lumen=wall"], "does not hold '='"),
        (["lumen,wall"], "does not hold ','"),
        (["../lumen"], "does not hold '/'"),
        (["Background"], "is not 'background'"),
        (["Wall", "lumen", "wall"], "same name: 'Wall' and 'wall'"),
    ],
)
def test_names_that_cannot_be_are_refused(names, told):
    with pytest.raises(InputError, match=told):
        check_classes(names)
