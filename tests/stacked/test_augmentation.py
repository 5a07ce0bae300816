import pytest
import torch

from zoo_datasets.stacked.augmentation import CROP_PADDING, augment

SEEDS = torch.tensor([1, 2])


def pixels(size=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (2, 40, 3, size, size), generator=generator).to(torch.uint8)


def test_crops_are_shifted_windows_with_black_beyond_the_border():
    images = pixels()
    padded = torch.nn.functional.pad(images, (CROP_PADDING,) * 4)
    cropped = augment(images, ("crop",), SEEDS, epoch=1, step=0)
    shifts = set()
    for image, result in zip(padded.flatten(0, 1), cropped.flatten(0, 1), strict=True):
        windows = [
            (row, column)
            for row in range(9)
            for column in range(9)
            if torch.equal(image[:, row : row + 12, column : column + 12], result)
        ]
        assert len(windows) == 1
        shifts.add(windows[0])
    assert len(shifts) > 30


def test_about_half_are_flipped():
    images = pixels()
    flipped = augment(images, ("flip",), SEEDS, epoch=1, step=0)
    same = (flipped == images).flatten(2).all(dim=2)
    mirrored = (flipped == images.flip(-1)).flatten(2).all(dim=2)
    assert (same ^ mirrored).all()
    assert 20 < same.sum() < 60


def test_rotation_turns_by_up_to_20_degrees_about_the_centre():
    images = torch.zeros(2, 200, 1, 33, 33, dtype=torch.uint8)
    images[..., 16, 16], images[..., 15:18, 28] = 255, 200  # the centre, and a mark to the right of it
    rotated = augment(images, ("rotate",), SEEDS, epoch=1, step=0)
    assert (rotated[..., 16, 16] == 255).all()
    angles = []
    for image in rotated.flatten(0, 2):
        rows, columns = torch.nonzero(image == 200, as_tuple=True)
        angles.append(torch.atan2(-(rows.double().mean() - 16), columns.double().mean() - 16).rad2deg().item())
    assert max(map(abs, angles)) < 22
    assert max(angles) > 15
    assert min(angles) < -15


def test_a_members_augmentation_depends_on_seed_epoch_and_step_alone():
    images = pixels()
    both = augment(images, ("crop", "flip"), SEEDS, epoch=2, step=5)
    assert torch.equal(augment(images[1:], ("crop", "flip"), SEEDS[1:], epoch=2, step=5)[0], both[1])
    assert not torch.equal(augment(images, ("crop", "flip"), SEEDS, epoch=2, step=6), both)


@pytest.mark.parametrize("kind", ["crop", "flip", "rotate"])
def test_shape_and_dtype_stay(kind):
    images = pixels(9)[:, :3]
    result = augment(images, (kind,), SEEDS, epoch=1, step=0)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
