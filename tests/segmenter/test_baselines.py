import numpy as np
from tiny_segmentation import pictures

from spadecli.segmenter.baselines import ColorAndPosition, MajorityClass
from spadecli.segmenter.evaluate import agreement_on


def test_the_majority_class_is_never_the_unknown_one():
    counts = np.array([5, 7, 90])
    images = np.zeros((2, 3, 4, 3), np.uint8)
    assert (MajorityClass(counts, None).predict(images) == 2).all()
    assert (MajorityClass(counts, 2).predict(images) == 1).all()


def test_colour_tells_classes_that_differ_in_colour():
    photos, channels = pictures(6)
    seen, unseen = zip(photos[:4], channels[:4], strict=True), zip(photos[4:], channels[4:], strict=True)
    found = agreement_on(ColorAndPosition(4, None).fit(seen), unseen, 4, None)
    assert found.mean_iou > 0.9
    assert not found.counted[3]  # a class that does not occur is not in the mean


def test_position_tells_classes_that_differ_in_place():
    channels = np.zeros((32, 32), np.uint8)
    channels[16:] = 1
    grey = np.full((32, 32, 3), 128, np.uint8)
    predicted = ColorAndPosition(2, None).fit([(grey, channels)]).predict(grey[None])
    assert (predicted[0] == channels).all()
    # and at another size
    assert (
        ColorAndPosition(2, None).fit([(grey, channels)]).predict(grey[None, ::2, ::2])[0] == channels[::2, ::2]
    ).all()


def test_the_unknown_class_is_never_the_answer():
    photos, channels = pictures(4, hidden=True)
    model = ColorAndPosition(4, 3).fit(zip(photos, channels, strict=True))
    assert (model.predict(photos) != 3).all()


def test_balance_brings_out_rare_classes():
    rng = np.random.default_rng(0)
    channels = (rng.random((64, 64)) < 0.05).astype(np.uint8)
    photo = np.repeat(rng.integers(100, 140, (64, 64, 1), np.uint8) + channels[..., None] * 16, 3, 2)
    share = [(ColorAndPosition(2, None, b).fit([(photo, channels)]).predict(photo[None]) == 1).mean() for b in (0, 1)]
    assert share[1] > share[0]
