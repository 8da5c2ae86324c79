from __future__ import annotations

import numpy as np
import pytest

from spadecli.core.errors import UserError
from spadecli.metrics.confusion import agreement, confusion_matrix, image_mean_iou, intersection_and_union


def maps(seed: int, classes: int = 5, shape: tuple[int, int] = (40, 30)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    truth = random.randint(0, classes, shape).astype(np.uint8)
    predicted = np.where(random.rand(*shape) < 0.6, truth, random.randint(0, classes + 1, shape)).astype(np.uint8)
    return truth, predicted


def brute_force(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int | None) -> dict[str, object]:
    """Set operations on pixels, class by class, with no confusion matrix."""
    pixels = [(t, p) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t != ignore]
    iou = {}
    for k in range(classes):
        given, found = [{i for i, pair in enumerate(pixels) if pair[side] == k} for side in (0, 1)]
        if given:
            iou[k] = (len(given & found) / len(given | found), len(given) / len(pixels))
    return {
        "mean_iou": np.mean([value for value, _ in iou.values()]),
        "accuracy": np.mean([t == p for t, p in pixels]),
        "weighted": sum(value * share for value, share in iou.values()),
    }


@pytest.mark.parametrize("ignore", [None, 0, 4])
def test_agrees_with_sets_of_pixels(ignore: int | None) -> None:
    truth, predicted = maps(1)
    truth[truth == 3] = 2  # class 3 is absent
    result = agreement(confusion_matrix(truth, predicted, 5, ignore), ignore)
    expected = brute_force(truth, predicted, 5, ignore)
    assert result.mean_iou == pytest.approx(expected["mean_iou"], rel=1e-12)
    assert result.accuracy == pytest.approx(expected["accuracy"], rel=1e-12)
    assert result.frequency_weighted_iou == pytest.approx(expected["weighted"], rel=1e-12)
    assert list(result.counted) == [k not in (3, ignore) for k in range(5)]


def test_known_answer() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, 2, 2]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [1, 3, 2, 0]], np.uint8)
    matrix = confusion_matrix(truth, predicted, 3)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [1, 0, 1, 0]]
    result = agreement(matrix)
    assert result.class_iou.tolist() == [2 / 4, 2 / 4, 1 / 2]
    assert result.accuracy == 5 / 8
    assert result.class_accuracy.tolist() == [2 / 3, 2 / 3, 1 / 2]


def test_rules_for_absent_classes() -> None:
    truth = np.zeros((2, 2), np.uint8)
    predicted = np.array([[0, 0], [0, 1]], np.uint8)
    matrix = confusion_matrix(truth, predicted, 3)
    assert agreement(matrix, absent="left-out").mean_iou == 0.75
    assert agreement(matrix, absent="if-predicted").mean_iou == 0.75 / 2
    assert agreement(matrix, absent="zero").mean_iou == 0.25
    nothing = agreement(confusion_matrix(truth, predicted, 3, ignore=0), 0)
    assert np.isnan([nothing.mean_iou, nothing.accuracy, nothing.frequency_weighted_iou]).all()


def test_a_perfect_prediction_is_one() -> None:
    truth, _ = maps(2)
    result = agreement(confusion_matrix(truth, truth, 5, 1), 1)
    assert (result.mean_iou, result.accuracy, result.frequency_weighted_iou) == pytest.approx((1, 1, 1))


def test_images_add_up_to_the_whole() -> None:
    parts = [confusion_matrix(*maps(seed), 5, 2) for seed in range(6)]
    whole = sum(parts)
    shared, union = (np.stack(x) for x in zip(*map(intersection_and_union, parts), strict=True))
    assert (intersection_and_union(whole)[0] == shared.sum(0)).all()
    assert (intersection_and_union(whole)[1] == union.sum(0)).all()
    present = np.stack([part.sum(axis=1) > 0 for part in parts])
    singles = [agreement(part, 2).mean_iou for part in parts]
    np.testing.assert_allclose(image_mean_iou(shared, union, present), singles, rtol=1e-12)


def test_counts_do_not_overflow() -> None:
    matrix = confusion_matrix(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), 255) * 2**40
    assert matrix.dtype == np.int64
    assert matrix[0, 0] == 2**40


def test_bad_input() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
    with pytest.raises(UserError, match="channel 7"):
        confusion_matrix(np.full((2, 3), 7, np.uint8), np.zeros((2, 3), np.uint8), 2)
