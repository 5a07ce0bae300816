"""Speed of the engine beside the plain loop: one nn.Module with torch.optim, same batch size, one thread each; and as a
share of what torch's product of two matrices of 512 × 512 reaches on the same core, counting multiplications and
additions of convolutions and linear layers only.

    python tests/benchmarks/engine.py [--seconds 0.3] [--members 64] [--networks cnn_s,mlp]
        [--json build/bench/engine.json] [--strict]

Every measurement alternates between the three and takes the best round of each, so that other work on the
machine hurts both alike. The images are random pixels; the arithmetic does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))
from plain import variational

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.native.compiler import find_compiler
from zoo_datasets.networks.architectures import get_architecture, resnet18_layers
from zoo_datasets.networks.code import allow_code
from zoo_datasets.networks.fields import grid_points
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.module import Network, module_of_layers
from zoo_datasets.networks.outlines import complete
from zoo_datasets.stacked import BlockRecipe, MemberBlock, StepSettings, TorchBlock, initialise, lanes_of
from zoo_datasets.stacked.field import GRID
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.native.codegen import IMAGES as THE_IMAGES
from zoo_datasets.stacked.native.codegen import stages
from zoo_datasets.stacked.native.field import NativeFieldBlock
from zoo_datasets.training.steps.cohort import STEPS_AT_ONCE

EVALUATION_BATCH, IMAGES, ROUNDS, MATRIX = 100, 2000, 5, 512
ACTIVATIONS = ("gelu", "relu", "sigmoid", "tanh")  # of the published zoos


@dataclass(frozen=True, kw_only=True, slots=True)
class Net:
    """A network of the table, and what its training has to reach.

    Attributes:
        share: of the rate of matrix products; 0 where there is no target.
        ratio: to the plain loop; likewise.
    """

    images: str
    batch: int
    size: int
    share: float = 0.0
    ratio: float = 0.0
    width: int | None = None


NETWORKS = {
    "cnn_s": Net(images="mnist", batch=10, size=28, share=0.5),
    "cnn_l": Net(images="cifar10", batch=10, size=32, share=0.5),
}
FURTHER = {
    "small_cnn": Net(images="mnist", batch=32, size=28, share=0.4),
    "small_cnn 32": Net(images="cifar10", batch=32, size=32, share=0.4),
    "mlp": Net(images="mnist", batch=32, size=28, ratio=12.0),
    "resnet 4": Net(images="mnist", batch=32, size=28, share=0.3, width=4),
    "resnet 8": Net(images="mnist", batch=32, size=28, share=0.3, width=8),
}
SIREN, FIELD_SHARE = "siren", 0.25
# On the torch path: batch, ratio to the plain loop, and arguments of examples/narrow_vit.py; None: of the table.
WHOLE: dict[str, tuple[int, float, dict[str, int] | None]] = {
    "narrow ViT": (32, 2.0, {"patch": 7, "dim": 16}),
    "resnet18": (128, 1.0, None),
}
ALL = NETWORKS | FURTHER
KL_WEIGHT = 0.01
SPARSIFY_SHARE, EVALUATION_SHARE, TORCH_TARGET, CORES_TARGET = 0.3, 0.4, 1.8, 1.8

Rate = Callable[[float], float]  # seconds to measure for → samples per second


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One line of the table: rates in samples per second, all members together.

    Attributes:
        share: of the rate of matrix products; None where it was not measured.
        target, share_target: the least ratio and share; 0 where there is none.
    """

    what: str
    network: str
    settings: str
    baseline: float
    engine: float
    target: float = 0.0
    share: float | None = None
    share_target: float = 0.0
    ratio: float = field(init=False)
    met: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.engine / self.baseline)
        met = self.engine / self.baseline >= self.target and (self.share or 0.0) >= self.share_target
        object.__setattr__(self, "met", met)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network and how it is trained."""

    network: str
    activation: str = "tanh"
    optimizer: str = "adam"
    dropout: float = 0.0
    variational: bool = False

    @property
    def settings(self) -> str:
        kind = "variational" if self.variational else f"dropout {self.dropout:g}"
        return f"{self.activation}, {self.optimizer}, {kind}"


def images_of(network: str) -> ImageData:
    net = ALL[network]
    spec, generator = get_image_spec(net.images), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, spec.channels, net.size, net.size), generator=generator).to(torch.uint8)
    split = Split(pixels, torch.arange(IMAGES) % spec.classes)
    return ImageData(spec=spec, size=net.size, fingerprint="benchmark", train=split, val=split, test=split)


def layers_of(network: str) -> tuple[Layer, ...]:
    net = ALL[network]
    channels = get_image_spec(net.images).channels
    if net.width is not None:
        return resnet18_layers(net.width)(channels, 10)
    return get_architecture(network.split()[0]).layers(channels, 10)


def operations(network: str, *, training: bool) -> int:
    """Multiplications and additions of a sample; those of the gradient of images are not needed."""
    net, total = ALL[network], 0
    for stage in stages(layers_of(network), (get_image_spec(net.images).channels, net.size, net.size)):
        if stage.kind == "CONV":
            passes = (2 if stage.source == THE_IMAGES else 3) if training else 1
            total += 2 * passes * stage.outputs * stage.inputs * stage.kernel**2 * stage.rows * stage.columns
    return total


def matmul(seconds: float) -> float:
    """Operations per second of torch's matrix products."""
    first, second = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)

    def multiply() -> int:
        torch.mm(first, second, out=out)
        return 2 * MATRIX**3

    return rate_of(multiply, seconds)


def rate_of(work: Callable[[], int], seconds: float) -> float:
    """Samples per second of `work`, which gives the samples of one call, over at least so many seconds."""
    samples, start = 0, time.perf_counter()
    while True:
        samples += work()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return samples / elapsed


def plain_loop(case: Case, data: ImageData) -> tuple[Rate, Rate]:
    """Training and evaluating one module, its images already normalised in memory."""
    batch_size = ALL[case.network].batch
    module = Network(layers_of(case.network), case.activation, case.dropout)
    noisy = variational(module) if case.variational else []
    optimizer = (
        torch.optim.Adam(module.parameters(), 1e-4)
        if case.optimizer == "adam"
        else torch.optim.SGD(module.parameters(), 1e-4, momentum=0.9)
    )
    images, labels = data.normalise(data.train.images), data.train.labels
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    batches = itertools.cycle(order.split(batch_size))
    parts = itertools.cycle(range(0, IMAGES, EVALUATION_BATCH))

    def step() -> int:
        index = next(batches)
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(images[index]), labels[index])
        for layer in noisy:
            loss = loss + KL_WEIGHT * layer.divergence()
        loss.backward()
        optimizer.step()
        return len(index)

    @torch.no_grad()
    def evaluate() -> int:
        part = slice(start := next(parts), start + EVALUATION_BATCH)
        logits = module(images[part])
        functional.cross_entropy(logits, labels[part], reduction="sum").item()
        (logits.argmax(1) == labels[part]).sum().item()
        return EVALUATION_BATCH

    def training(seconds: float) -> float:
        module.train()
        return rate_of(step, seconds)

    def evaluation(seconds: float) -> float:
        module.eval()
        return rate_of(evaluate, seconds)

    return training, evaluation


class Population:
    """Members in blocks, as the trainer steps them: a range of steps of each block in turn, or in threads."""

    def __init__(self, case: Case, data: ImageData, members: int, path: str, threads: int = 1) -> None:
        layers, self._batch = layers_of(case.network), ALL[case.network].batch
        lanes, make = (native.lanes(), native.NativeBlock) if path == "native" else (lanes_of(layers), TorchBlock)
        self._data, self._threads = data, threads
        long = path == "torch" or ALL[case.network].width is not None  # many steps would take longer than a round
        self._steps = 2 if long else min(STEPS_AT_ONCE, IMAGES // self._batch)
        size, generator = build_layout(layers).size, torch.Generator().manual_seed(0)
        self._blocks: list[MemberBlock] = []
        for seeds in torch.arange(members).split(lanes):
            rates = torch.full((len(seeds),), case.dropout, dtype=torch.float64)
            recipe = BlockRecipe(
                layers=layers, activation=case.activation, optimizer=case.optimizer, batch_size=self._batch,
                augmentation=(), seeds=seeds, dropout=rates, variational=case.variational,
            )  # fmt: skip
            state = {"log_sigma2": torch.full((len(seeds), size), -10.0)} if case.variational else None
            self._blocks.append(make(recipe, data))
            self._blocks[-1].load(torch.randn(len(seeds), size, generator=generator) * 0.1, state)
        self._kl_weight = KL_WEIGHT if case.variational else 0.0
        self._orders = [block.order(1, IMAGES) for block in self._blocks]
        self._at = [0] * len(self._blocks)

    def training(self, seconds: float) -> float:
        return self._rate(self._train, seconds)

    def evaluation(self, seconds: float) -> float:
        return self._rate(self._evaluate, seconds)

    def _rate(self, work: Callable[[int], int], seconds: float) -> float:
        """Each thread goes round its own blocks until the time is over, as in training: none waits for another."""

        def run(first: int) -> float:
            numbers = itertools.cycle(range(first, len(self._blocks), self._threads))
            return rate_of(lambda: work(next(numbers)), seconds)

        if self._threads == 1:
            return run(0)
        with ThreadPoolExecutor(self._threads) as pool:
            return sum(pool.map(run, range(self._threads)))

    def _train(self, number: int) -> int:
        block = self._blocks[number]
        if self._at[number] + 2 * self._steps > IMAGES // self._batch:
            self._at[number] = -self._steps
        self._at[number] += self._steps
        members = len(block.recipe.seeds)
        settings = [
            StepSettings(
                lr=torch.full((members,), 1e-4), weight_decay=torch.full((members,), 1e-3),
                momentum=torch.full((members,), 0.9), count=self._at[number] + step,
            )
            for step in range(self._steps)
        ]  # fmt: skip
        tally = block.train(
            self._data.train,
            self._orders[number],
            epoch=1,
            first_step=self._at[number],
            settings=settings,
            kl_weight=self._kl_weight,
        )
        return tally.images * members

    def _evaluate(self, number: int) -> int:
        block = self._blocks[number]
        tally = block.evaluate(self._data.val)
        return tally.images * len(block.recipe.seeds)


def best(rates: list[Rate], seconds: float) -> list[float]:
    """The best round of each, round by round in turn."""
    rounds = [[rate(seconds) for rate in rates] for _ in range(ROUNDS)]
    return [max(column) for column in zip(*rounds, strict=True)]


def measured(what: str, case: Case, members: int, seconds: float, *, training: bool = True, **targets: float) -> Result:
    """The native path beside the plain loop and matrix products."""
    data = images_of(case.network)
    population = Population(case, data, members, "native")
    plain = plain_loop(case, data)[not training]
    engine_rate = population.training if training else population.evaluation
    baseline, engine, products = best([plain, engine_rate, matmul], seconds)
    return Result(
        what=what, network=case.network, settings=case.settings, baseline=baseline, engine=engine,
        share=engine * operations(case.network, training=training) / products, **targets,
    )  # fmt: skip


def training_results(members: int, seconds: float) -> Iterator[Result]:
    for network, activation, optimizer, dropout in itertools.product(
        NETWORKS, ACTIVATIONS, ("adam", "sgd"), (0.0, 0.5)
    ):
        case = Case(network=network, activation=activation, optimizer=optimizer, dropout=dropout)
        # Dropout draws a number for each unit, which is no matrix product.
        share = NETWORKS[network].share if not dropout else NETWORKS[network].share / 2
        yield measured("train, 1 thread", case, members, seconds, share_target=share)


def further_results(members: int, seconds: float) -> Iterator[Result]:
    for network, net in FURTHER.items():
        for activation in ("relu",) if net.width is not None else ("relu", "tanh"):
            case = Case(network=network, activation=activation)
            yield measured(
                f"train, batch {net.batch}", case, native.lanes(), seconds, target=net.ratio, share_target=net.share
            )


def sparsify_results(members: int, seconds: float) -> Iterator[Result]:
    for network, optimizer in itertools.product(NETWORKS, ("adam", "sgd")):
        case = Case(network=network, optimizer=optimizer, variational=True)
        # Means and variances are each a pass of their own, which is counted once.
        yield measured("sparsify, 1 thread", case, members, seconds, share_target=SPARSIFY_SHARE / 2)


def field_results(members: int, seconds: float) -> Iterator[Result]:
    """Networks of sines fitted to images of 28 × 28: points per second."""
    layers, data = get_architecture(SIREN).layers(2, 1), images_of("cnn_s")
    points, widths = data.size**2, [2, 32, 32, 1]
    products = [inputs * outputs for inputs, outputs in itertools.pairwise(widths)]
    each = 2 * (3 * sum(products) - products[0])  # forward and both gradients; coordinates need none
    seeds = torch.arange(1, native.lanes() + 1)
    recipe = BlockRecipe(
        layers=layers, activation="none", optimizer="adam", batch_size=1, augmentation=(), seeds=seeds,
        dropout=torch.zeros(len(seeds), dtype=torch.float64),
    )  # fmt: skip
    block = NativeFieldBlock(recipe, data)
    block.load(initialise(layers, seeds, ["siren"] * len(seeds)))
    one = torch.ones(len(seeds), dtype=torch.float64)
    steps = [StepSettings(lr=5e-4 * one, momentum=0 * one, weight_decay=0 * one, count=step) for step in range(4)]
    order = torch.zeros(len(seeds), len(steps), dtype=torch.int64)
    module, places = Network(layers, "none"), grid_points(GRID, data.size).float()
    target = data.train.images[0].flatten()[:, None] / 255.0
    optimizer = torch.optim.Adam(module.parameters(), 5e-4)

    def fit() -> int:
        block.train(data.train, order, epoch=1, first_step=0, settings=steps)
        return points * len(seeds) * len(steps)

    def step() -> int:
        optimizer.zero_grad()
        functional.mse_loss(module(places), target).backward()
        optimizer.step()
        return points

    baseline, engine, rate = best([partial(rate_of, step), partial(rate_of, fit), matmul], seconds)
    yield Result(
        what="fit, 1 thread", network=SIREN, settings=f"{points} points, adam", baseline=baseline, engine=engine,
        share=engine * each / rate, share_target=FIELD_SHARE,
    )  # fmt: skip


def whole_results(members: int, seconds: float) -> Iterator[Result]:
    """Networks that the kernels do not know: code of one's own in a stack, and one too large for a stack."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    allow_code("narrow_vit")
    for name, (batch, target, arguments) in WHOLE.items():
        data = images_of("cnn_l" if arguments is None else "cnn_s")
        if arguments is None:
            layers, activation, init = get_architecture(name).layers(data.channels, 10), "relu", "kaiming_uniform"
        else:
            outline = [{"module": {"factory": "narrow_vit:make_model", "arguments": arguments}}]
            layers, activation, init = complete(outline, data.channels, 10, data.size), "none", "module"
        seeds = torch.arange(1, lanes_of(layers) + 1)
        recipe = BlockRecipe(
            layers=layers, activation=activation, optimizer="adam", batch_size=batch, augmentation=(), seeds=seeds,
            dropout=torch.zeros(len(seeds), dtype=torch.float64),
        )  # fmt: skip
        block, module = TorchBlock(recipe, data), module_of_layers(layers, activation)
        block.load(initialise(layers, seeds, [init] * len(seeds)))
        yield whole_result(name, block, module, data, target, seconds)


def whole_result(
    name: str, block: TorchBlock, module: nn.Module, data: ImageData, target: float, seconds: float
) -> Result:
    """Steps of a block beside those of one module."""
    batch, members = block.recipe.batch_size, len(block.recipe.seeds)
    images, labels, order = data.normalise(data.train.images), data.train.labels, block.order(1, IMAGES)
    one, numbers = torch.full((members,), 1e-4), itertools.cycle(range(IMAGES // batch))
    optimizer = torch.optim.Adam(module.parameters(), 1e-4)

    def train() -> int:
        step = next(numbers)
        settings = [StepSettings(lr=one, weight_decay=0 * one, momentum=0 * one, count=step)]
        block.train(data.train, order, epoch=1, first_step=step, settings=settings)
        return batch * members

    def plain() -> int:
        index = order[0, batch * next(numbers) :][:batch]
        optimizer.zero_grad()
        functional.cross_entropy(module(images[index]), labels[index]).backward()
        optimizer.step()
        return batch

    baseline, engine = best([partial(rate_of, plain), partial(rate_of, train)], seconds)
    return Result(
        what=f"train, torch, batch {batch}", network=name, settings=f"{members} at a time, adam", baseline=baseline,
        engine=engine, target=target,
    )  # fmt: skip


def evaluation_results(members: int, seconds: float) -> Iterator[Result]:
    for network, activation in itertools.product(NETWORKS, ACTIVATIONS):
        case = Case(network=network, activation=activation)
        yield measured("evaluate, 1 thread", case, members, seconds, training=False, share_target=EVALUATION_SHARE)


def torch_results(members: int, seconds: float) -> Iterator[Result]:
    for optimizer, dropout in (("adam", 0.0), ("sgd", 0.0), ("adam", 0.5)) if "cnn_s" in NETWORKS else ():
        case = Case(network="cnn_s", optimizer=optimizer, dropout=dropout)
        data = images_of("cnn_s")
        population = Population(case, data, members, "torch")
        baseline, engine = best([plain_loop(case, data)[0], population.training], seconds)
        yield Result(
            what="train, no compiler", network="cnn_s", settings=case.settings, baseline=baseline, engine=engine,
            target=TORCH_TARGET,
        )  # fmt: skip


def cores_results(members: int, seconds: float) -> Iterator[Result]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for network in NETWORKS if cores > 1 else ():
        case = Case(network=network)
        data = images_of(network)
        # As many blocks for each thread, so that none waits for another at the end of a round.
        one, all_of_them = (
            Population(
                case, data, native.lanes() * cores * max(1, members // (native.lanes() * cores)), "native", threads
            )
            for threads in (1, cores)
        )
        used: list[float] = []

        def training(seconds: float, population: Population = all_of_them, used: list[float] = used) -> float:
            start, cpu = time.perf_counter(), time.process_time()
            rate = population.training(seconds)
            used.append((time.process_time() - cpu) / (time.perf_counter() - start))
            return rate

        baseline, engine = best([one.training, training], seconds)
        yield Result(
            what=f"train, {cores} threads / 1", network=network,
            settings=f"{case.settings}; got {max(used):.2f} cores",  # fewer where other processes compute
            baseline=baseline, engine=engine, target=CORES_TARGET * cores / 2,
        )  # fmt: skip


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [
            line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        model = models[0] if models else model
    reason = native.available()
    compiler = None if reason else find_compiler()
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": reason or compiler.identity.splitlines()[0],
        "lanes": None if reason else compiler.lanes,
    }


def table_of(results: list[Result]) -> Table:
    table = Table(title="samples per second")
    for column in ("what", "network", "settings"):
        table.add_column(column)
    for column in ("baseline", "engine", "ratio", "of matmul", "target", ""):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result.what, result.network, result.settings, f"{result.baseline:,.0f}", f"{result.engine:,.0f}",
            f"{result.ratio:.1f} ×", "" if result.share is None else f"{result.share:.0%}",
            f"{result.target:g} ×" if result.target else f"{result.share_target:.0%}",
            "" if result.met else "below target",
        )  # fmt: skip
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64, help="members trained as one population")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round; each is measured 5 times")
    parser.add_argument("--json", type=Path, default=Path("build/bench/engine.json"), help="where the numbers go")
    parser.add_argument("--networks", default="", help="names of networks with commas between; only these are measured")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in set(ALL) - set(arguments.networks.split(",")) if arguments.networks else ():
        NETWORKS.pop(name, None)
        FURTHER.pop(name, None)
    for name in set(WHOLE) - set(arguments.networks.split(",")) if arguments.networks else ():
        WHOLE.pop(name)
    console = Console(width=None if sys.stdout.isatty() else 120)
    facts = machine()
    console.print(facts)
    parts = [torch_results, whole_results]
    if facts["lanes"] is not None:
        parts = [training_results, further_results, sparsify_results, evaluation_results, *parts, cores_results]
        if not arguments.networks or SIREN in arguments.networks.split(","):
            parts.insert(2, field_results)
    results: list[Result] = []
    for part in parts:
        for result in part(arguments.members, arguments.seconds):
            results.append(result)
            console.print(f"{result.what}: {result.network} {result.settings}: {result.ratio:.1f} ×", style="dim")
    console.print(table_of(results))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts, "members": arguments.members, "results": [asdict(result) for result in results]}
    arguments.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"written to {arguments.json}")
    return int(arguments.strict and not all(result.met for result in results))


if __name__ == "__main__":
    sys.exit(main())
