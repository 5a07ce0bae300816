"""Training speed of this machine, measured by training for a few seconds, in memory, on the real images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.layers import Layer
from zoo_datasets.specs.members import Member
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.stacked import BlockRecipe, MemberBlock
from zoo_datasets.stacked.threads import torch_workers
from zoo_datasets.training.population.opening import Start, initial_weights
from zoo_datasets.training.steps.cohort import STEPS_AT_ONCE
from zoo_datasets.training.steps.recipes import MemberSettings, block_recipe, training_images

TRAIN_SECONDS = 2.0
EVALUATE_SECONDS = 0.5
# A training takes so many steps at once; where they are slow, fewer between two looks at the clock.
_CHUNK_SECONDS = 0.2
_IMAGES_AT_ONCE = 1000
_FIRST_IMAGES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds that a block takes while as many blocks as there are threads compute at the same time.

    Attributes:
        members: of the block that was measured.
        images: of an epoch of the block that was measured.
        order: to draw the order of an epoch.
        train: for a training image; evaluate: for an evaluated one.
    """

    members: int
    images: int
    order: float
    train: float
    evaluate: float


def measure_pace(
    make_block: Callable[[BlockRecipe, ImageData], MemberBlock],
    zoo: ZooSpec,
    layers: tuple[Layer, ...],
    data: ImageData,
    members: Sequence[Member],
    threads: int,
    start: Start = initial_weights,
) -> Pace:
    """Train a block of these members on each of `threads` threads at once, then evaluate, and time both."""
    recipe = block_recipe(layers, zoo, members)
    weights, state = start(zoo, layers, members)
    together = threading.Barrier(threads)

    def measure(_: int) -> Pace:
        try:
            return timed()
        except BaseException:
            together.abort()  # or the others would wait for this thread
            raise

    def timed() -> Pace:
        block = make_block(recipe, data)
        block.load(weights, state)
        together.wait()
        begun = time.perf_counter()
        images = training_images(zoo, data.train, members)
        order = block.order(1, len(images))
        ordered = time.perf_counter() - begun
        train = _time_training(block, order, images, zoo, members, together)
        evaluate = _time_evaluation(block, data, together)
        return Pace(members=len(members), images=len(images), order=ordered, train=train, evaluate=evaluate)

    with torch_workers(threads, "pace", within=1) as pool:
        paces = list(pool.map(measure, range(threads)))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return Pace(
        members=len(members),
        images=paces[0].images,
        order=mean([pace.order for pace in paces]),
        train=mean([pace.train for pace in paces]),
        evaluate=mean([pace.evaluate for pace in paces]),
    )


def _time_training(
    block: MemberBlock,
    order: torch.Tensor,
    split: Split,
    zoo: ZooSpec,
    members: Sequence[Member],
    together: threading.Barrier,
) -> float:
    """Seconds a training image; the first steps, which touch all memory once, do not count."""
    size, images = block.recipe.batch_size, len(split)
    steps = -(-images // size)
    settings = MemberSettings.of(members, images, size)

    def step(first: int, count: int) -> float:
        now = [settings.at(zoo.scheduler, first + offset, steps * zoo.epochs) for offset in range(count)]
        begun = time.perf_counter()
        block.train(split, order, epoch=1, first_step=first, settings=now)
        return time.perf_counter() - begun

    step(0, 1)
    one = step(min(1, steps - 1), 1)
    at_once = max(1, min(STEPS_AT_ONCE, steps, int(_CHUNK_SECONDS / one)))
    together.wait()
    first = trained = 0
    begun = now = time.perf_counter()
    while trained == 0 or now - begun < TRAIN_SECONDS:
        count = min(at_once, steps - first)
        step(first, count)
        trained += min((first + count) * size, images) - first * size
        first = (first + count) % steps
        now = time.perf_counter()
    return (now - begun) / trained


def _time_evaluation(block: MemberBlock, data: ImageData, together: threading.Barrier) -> float:
    """Seconds an evaluated image."""

    def part(count: int) -> Split:
        return Split(data.test.images[:count], data.test.labels[:count])

    few, many = part(_FIRST_IMAGES), part(_IMAGES_AT_ONCE)
    begun = time.perf_counter()
    block.evaluate(few)
    slow = time.perf_counter() - begun > EVALUATE_SECONDS
    together.wait()
    split, evaluated = few if slow else many, 0
    begun = now = time.perf_counter()
    while evaluated == 0 or now - begun < EVALUATE_SECONDS:
        block.evaluate(split)
        evaluated += len(split)
        now = time.perf_counter()
    return (now - begun) / evaluated
