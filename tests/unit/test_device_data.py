"""Batches: normalisation, integer inputs, and augmentation against every crop and flip."""

import numpy as np
import pytest
import small_data
import torch
from scipy import stats

from arfl.device_data import DeviceData, crop, draw_crops

CPU = torch.device("cpu")


def stream(seed=0):
    return np.random.default_rng(seed)


def train_batch(data, indices):
    return data.inputs(data.stored(indices)), data.labels(indices)


def crop_at_random(images, generator):
    return crop(images, torch.from_numpy(draw_crops(len(images), generator)))


def test_images_are_scaled_to_one_and_normalised_by_channel():
    source = small_data.images(20, channels=3, side=8)
    data = DeviceData(source, CPU)
    indices = torch.tensor([[3, 3, 7], [0, 19, 1]])
    x, y = train_batch(data, indices)
    mean = np.array(source.meta["normalisation"]["mean"])[:, None, None]
    std = np.array(source.meta["normalisation"]["std"])[:, None, None]
    expected = (source.train_x[indices.numpy()] / 255 - mean) / std
    assert x.shape == (2, 3, 3, 8, 8)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert y.dtype == torch.int64
    assert y.tolist() == source.train_y[indices.numpy()].tolist()
    x, y = data.test_batch(5, 9)
    expected = (source.test_x[5:9] / 255 - mean) / std
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert y.tolist() == source.test_y[5:9].tolist()
    assert data.n_test == 20


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_tables_and_tokens_are_left_as_they_are(dtype):
    x = np.arange(-1, 29).reshape(10, 3).astype(dtype)
    source = small_data.dataset(x, np.arange(10).astype(np.int64))
    batch, _ = train_batch(DeviceData(source, CPU), torch.tensor([[4], [9]]))
    assert batch.numpy().tolist() == x[[[4], [9]]].tolist()
    batch, _ = DeviceData(source, CPU).test_batch(0, 100)
    assert batch.numpy().tolist() == x.tolist()


def test_the_prepared_arrays_are_not_written_to():
    source = small_data.images(4, channels=3, side=8)
    before = source.train_x.copy()
    source.train_x.setflags(write=False)
    data = DeviceData(source, CPU)
    data.inputs(crop_at_random(data.stored(torch.tensor([0, 1, 2, 3])), stream())).zero_()
    data.inputs(data.stored(torch.tensor([[0, 1], [2, 3]]))).zero_()
    data.stored(torch.tensor([0, 1])).zero_()
    data.test_batch(0, 4)[0].zero_()
    assert (source.train_x == before).all()


# Augmentation


def every_outcome(image):
    """The 81 crops of a zero-padded (C, H, W) image and their mirror images, in a fixed order."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
    crops = [padded[:, i : i + height, j : j + width] for i in range(9) for j in range(9)]
    return [variant for crop in crops for variant in (crop, crop[:, :, ::-1])]


def outcome_numbers(images, augmented):
    """Which of its image's outcomes each augmented image is; an error if it is none."""
    numbers = []
    for image, result in zip(images, augmented, strict=True):
        keys = [outcome.tobytes() for outcome in every_outcome(image)]
        assert len(set(keys)) == 162
        numbers.append(keys.index(result.tobytes()))
    return np.array(numbers)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 10)])
def test_each_image_becomes_one_of_its_own_crops_and_flips(height, width):
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, (60, 3, height, width), dtype=np.uint8)
    augmented = crop_at_random(torch.from_numpy(images), stream()).contiguous().numpy()
    assert augmented.shape == images.shape
    assert augmented.dtype == np.uint8
    assert len(set(outcome_numbers(images, augmented))) > 30


def test_every_crop_and_flip_is_equally_likely_and_drawn_for_each_image():
    # Of 8,100 copies of an image, 50 are expected to become each of the 162 outcomes.
    image = np.random.default_rng(1).integers(1, 256, (1, 6, 6), dtype=np.uint8)
    copies = torch.from_numpy(image).expand(8100, -1, -1, -1)
    augmented = crop_at_random(copies, stream(2)).contiguous().numpy()
    keys = {outcome.tobytes(): number for number, outcome in enumerate(every_outcome(image))}
    numbers = np.array([keys[result.tobytes()] for result in augmented])
    assert stats.chisquare(np.bincount(numbers, minlength=162)).pvalue > 0.001
    top, left, flip = numbers // 18, numbers // 2 % 9, numbers % 2
    for one, other in [(top, left), (top, flip), (left, flip), (top[1:], top[:-1])]:
        table = np.zeros((9, 9))
        np.add.at(table, (one, other), 1)
        table = table[:, table.any(axis=0)]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_crops_come_from_the_stream_and_one_is_the_image_itself():
    data = DeviceData(small_data.images(6, channels=3, side=8), CPU)
    plain = data.stored(torch.arange(6))
    cropped = crop_at_random(plain, stream())
    assert cropped.shape == plain.shape
    assert not torch.equal(cropped, plain)
    assert torch.equal(crop_at_random(plain, stream()), cropped)
    centre = torch.tensor([[4, 4, 0]]).expand(6, -1)
    assert torch.equal(crop(plain, centre), plain)
    mirrored = torch.tensor([[4, 4, 1]]).expand(6, -1)
    assert torch.equal(crop(plain, mirrored), plain.flip(3))


def test_padding_is_black_before_normalisation():
    source = small_data.images(200, channels=1, side=8)
    source.train_x[:] = 255
    data = DeviceData(source, CPU)
    x = data.inputs(crop_at_random(data.stored(torch.arange(200)), stream()))
    mean, std = source.meta["normalisation"]["mean"][0], source.meta["normalisation"]["std"][0]
    values = sorted(x.unique().tolist())
    assert values == pytest.approx([(0 - mean) / std, (1 - mean) / std], rel=1e-5)
