"""Whether a dataset repository is what it says: files, rows, splits, and figures recomputed from weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

from zoo_datasets.documents import StrPath
from zoo_datasets.errors import OutsideError, RepositoryError, UnknownNameError, ZooError
from zoo_datasets.evaluation.verify.fields import PSNR, check_fields, records_psnr
from zoo_datasets.evaluation.verify.figures import STACK_BYTES, spread, wrong_figures
from zoo_datasets.evaluation.verify.findings import Check, Difference, Findings, Verification
from zoo_datasets.evaluation.verify.members import check_members
from zoo_datasets.evaluation.verify.recipes import LASTING, Recipe, check_code_of
from zoo_datasets.evaluation.verify.shards import READ_ERRORS, CheckedRow, check_shards
from zoo_datasets.evaluation.verify.weights import check_parents, check_weights
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.images.signals import Signals
from zoo_datasets.repository.card import CARD, configs_of, info_of, read_card
from zoo_datasets.repository.card.text import lines_of, rows_in
from zoo_datasets.repository.listing import by_pattern, files_among
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.places import LIGHT_ENDINGS, MANIFEST, has_manifest, meta_path
from zoo_datasets.repository.row import FIGURES, HYPERPARAMETERS, LAYOUT, NAMES, WEIGHTS, weights_matrix
from zoo_datasets.specs.members import Limits
from zoo_datasets.terminal import Advance

__all__ = ["Check", "Difference", "Verification", "verify_repository"]

_SHIFTED = 32  # rows at a time that are compared with their neighbours' weights


def verify_repository(
    repo: StrPath,
    name: str,
    *,
    images: ImageData | None = None,
    signals: Signals | None = None,
    limits: Limits | None = None,
    sample: int | None = 32,
    progress: Advance | None = None,
) -> Verification:
    """Check one config of a local repository; every fault becomes a difference, none stops the others.

    Without images: card, manifest and files agree (names, sizes, checksums, rows), each shard carries the
    manifest's layout and the architecture's, row groups hold one epoch each, a model is in the one split that
    its id hashes to, no state stands twice, weights are finite unless the manifest keeps others. All rows of a model
    have the same hyperparameters, which are among those of the manifest; of a zoo trained by this package, ids are
    the hashes of recipe and seed, and weights of epoch 0 those that they give. From one epoch to the next a model
    continues its own weights; pruned weights stay zero, sparsity is that of the weights, and twins begin nearest to
    their parents if these are in the repository. What cannot be checked is in `Verification.unchecked`. With
    images also: they are those of the manifest, and validation and test figures of `sample` rows, spread over
    epochs and models, come out again from the weights alone; of those that do not, whether they are the figures of the
    model's state before or after; of a population of others, where its manifest tells what became of the images. Of
    fields with signals: the PSNR of `sample` rows comes out again within 0.01 dB.

    Args:
        images: the whole dataset; limits are applied here.
        signals: of fields, the images that they were fitted to.
        limits: how many images of each split the figures are of, where the manifest does not say or is wrong (an
            imported zoo does not record them); a limit of None is the manifest's.
        sample: number of rows to recompute; None means all.
        progress: called with (shards done, shards in all).

    Raises:
        RepositoryError: if `repo` is no dataset repository or its card cannot be read.
        UnknownNameError: if it has no such config.
    """
    repo = Path(repo)
    if not (repo / CARD).is_file():
        raise RepositoryError(f"{repo} is no dataset repository: there is no {CARD} in it; `zoo build` makes one")
    findings = Findings()
    card = _card(repo, findings)
    if (card is None or name not in configs_of(card)) and not has_manifest(repo, name):
        raise UnknownNameError("config", name, [] if card is None else configs_of(card))
    for end in LIGHT_ENDINGS:
        if name.endswith(end) and not has_manifest(repo, name):
            raise RepositoryError(f"{name} is a part of {name.removesuffix(end)}; verify that one")
    manifest = _manifest(repo, name, findings)
    if manifest is None:
        return findings.verification(name, 0, 0)
    if card is not None:
        _check_card(repo, card, manifest, findings)
    _check_manifest(manifest, findings)
    if manifest.network is not None:
        check_code_of([manifest.network], images is not None, findings)
    recipe = Recipe(manifest)
    rows = check_shards(repo, manifest, recipe, findings, progress or (lambda done, total: None))
    _check_models(rows, findings)
    _close_recipes(manifest, recipe, findings)
    if manifest.open is None:
        check_weights(repo, manifest, recipe, rows, findings)
        check_parents(repo, manifest, recipe, rows, findings)
    else:
        check_members(repo, manifest, recipe, rows, findings)
    recomputed = 0
    limited = None
    if images is not None and (manifest.open is None or manifest.pixels is not None):
        limited = _check_images(manifest, images, limits or Limits(), findings)
    if signals is not None and manifest.open is not None and _are_recorded(manifest, signals, findings):
        recomputed = check_fields(repo, manifest, rows, signals, sample, findings)
    elif records_psnr(manifest):
        if signals is None:
            findings.unchecked(f"{PSNR}, as there are no images")
    else:
        _say_unchecked(manifest, rows, recipe, limited is not None, sample, findings)
    if limited is not None:
        recomputed = _check_figures(repo, _sample(rows, sample), rows, limited, recipe.is_trained, findings)
        applied = [_mapping(manifest.source.get("limits")), dataclasses.asdict(limits or Limits())]
        unlimited = all(value is None for each in applied for value in each.values())
        if (
            unlimited
            and "fingerprint" not in _mapping(manifest.source.get("images"))
            and not findings.passed("figures")
        ):
            findings.differs(
                "figures",
                "an imported zoo does not record how many images its figures are of; if they were the first few, "
                "say so with --limit-val and --limit-test",
            )
    return findings.verification(name, manifest.rows(), recomputed)


def _card(repo: Path, findings: Findings) -> DatasetCard | None:
    try:
        return read_card(repo)
    except RepositoryError as error:
        findings.differs("card", str(error))
        findings.checked("card", "could not be read")
        return None


def _manifest(repo: Path, name: str, findings: Findings) -> Manifest | None:
    manifest = None
    try:
        manifest = read_manifest(repo, name)
        if manifest is None:
            findings.differs("manifest", f"{repo / meta_path(name, MANIFEST)} is missing; build the config again")
    except OutsideError as error:
        findings.differs("checksums", str(error))
        findings.checked("checksums", "no file was read")
        return None
    except RepositoryError as error:
        findings.differs("manifest", str(error))
    if manifest is None:
        findings.checked("manifest", "could not be read")
        return None
    return manifest


def _check_manifest(manifest: Manifest, findings: Findings) -> None:
    """Its counts add up, and its layout is the architecture's."""
    for what, count in (("models", manifest.models), ("states", manifest.states)):
        if count.found != count.written + count.left_out:
            findings.differs(
                "manifest",
                f"{what}: {count.found:,} found, but {count.written:,} written and {count.left_out:,} left out",
            )
    if manifest.states.written != manifest.rows():
        findings.differs(
            "manifest", f"{manifest.states.written:,} states written, but shards of {manifest.rows():,} rows"
        )
    listed = sum(len(entry.epochs) for entry in manifest.left_out)
    if listed != manifest.states.left_out:
        findings.differs(
            "manifest", f"{manifest.states.left_out:,} states left out, but {listed:,} listed with a reason"
        )
    if manifest.network is not None and manifest.layout is not None:
        try:
            expected = manifest.network.layout
        except UnknownNameError as error:
            findings.differs("manifest", str(error))
        else:
            if expected != manifest.layout:
                findings.differs(
                    "manifest",
                    f"its layout ({manifest.layout.size:,} weights) is not that of {manifest.network.architecture}",
                )
    findings.checked("manifest", f"{manifest.models.found:,} models and {manifest.states.found:,} states add up")


def _check_card(repo: Path, card: DatasetCard, manifest: Manifest, findings: Findings) -> None:
    configs = configs_of(card)
    names = (manifest.config, *(f"{manifest.config}{end}" for end in LIGHT_ENDINGS))
    files = [file.relative_to(repo).as_posix() for name in names for file in (repo / name).glob("*")]
    listed = sorted(file for name in names for file in files_among(configs.get(name, {}), files))
    expected = sorted((shard.split, shard.path) for shard in (*manifest.shards, *manifest.meta, *manifest.layouts))
    for split, path in sorted(set(listed) ^ set(expected)):
        where = f"{CARD} but not {MANIFEST}" if (split, path) in listed else f"{MANIFEST} but not {CARD}"
        findings.differs("card", f"{path} ({split}) stands in {where}; build the config again")
    for name in names[: 2 if manifest.meta else 1]:
        splits = info_of(card, name).get("splits")
        if splits is None and by_pattern(configs.get(name, {})):
            line = lines_of(card.text).get(name)
            if line is not None and rows_in(line) != manifest.rows():
                findings.differs(
                    "card", f"its table says {rows_in(line):,} rows of {name}, the manifest {manifest.rows():,}"
                )
            continue
        recorded = {entry.get("name"): entry.get("num_examples") for entry in splits or []}
        if recorded != manifest.splits:
            findings.differs("card", f"its dataset_info of {name} says {recorded} rows, the manifest {manifest.splits}")
    findings.checked("card", f"lists {len(listed)} files")


def _check_models(rows: list[CheckedRow], findings: Findings) -> None:
    splits: dict[str, set[str]] = {}
    seen: set[tuple[str, int, int | None]] = set()
    twice: list[str] = []
    for row in rows:
        splits.setdefault(row.model_id, set()).add(row.shard.split)
        if (row.model_id, row.epoch, row.step) in seen:
            twice.append(f"model {row.model_id} at epoch {row.epoch} stands there more than once")
        seen.add((row.model_id, row.epoch, row.step))
    findings.differ(
        "splits",
        [
            f"model {model_id} is in {' and '.join(sorted(held_in))}"
            for model_id, held_in in splits.items()
            if len(held_in) > 1
        ],
    )
    findings.differ("duplicates", twice)
    findings.checked("splits", f"of {len(splits):,} models, each in one")
    findings.checked("duplicates", f"{len(seen):,} different states")


def _close_recipes(manifest: Manifest, recipe: Recipe, findings: Findings) -> None:
    """Say what was compared, and which columns nothing tells."""
    models = f"{len(recipe.models):,} models"
    if recipe.zoo is not None and manifest.open is not None:
        pass  # `check_members` says it
    elif recipe.zoo is not None:
        findings.checked("recipes", f"ids of {models} are the hashes of their recipes and seeds")
    else:
        findings.checked("recipes", f"of {models}, the same in all rows of each and among those of {MANIFEST}")
        if recipe.is_trained:
            findings.unchecked(f"ids and weights of epoch 0, as the recipe in {MANIFEST} cannot be read")
        else:
            findings.unchecked(
                f"whether {', '.join(HYPERPARAMETERS)} and momentum are those of the training, as the zoo is imported"
            )
    if any(values[LASTING.index("source_split")] is not None for values in recipe.models.values()):
        findings.unchecked("source_split, which the authors' file alone tells")


def _say_unchecked(
    manifest: Manifest,
    rows: Sequence[CheckedRow],
    recipe: Recipe,
    has_images: bool,
    sample: int | None,
    findings: Findings,
) -> None:
    """Name the figures that are not compared with anything."""
    recorded = sum(row.recorded for row in rows)
    if not has_images:
        findings.unchecked("figures, as there are no images" if recorded else "figures, as there are none")
        return
    if sample is not None and sample < recorded:
        findings.unchecked(f"validation and test figures of {recorded - sample:,} rows outside the sample")
    if manifest.source.get("train_figures") == "evaluation":
        findings.unchecked("train_loss and train_acc, whose training images nothing tells")
        return
    later = " after epoch 0" if recipe.is_trained else ""
    findings.unchecked(f"train_loss and train_acc{later}, which are averages over the training itself")


def _are_recorded(manifest: Manifest, signals: Signals, findings: Findings) -> bool:
    """Whether the images of fields may be those of the manifest, as far as their fingerprints are known."""
    fingerprint = _mapping(manifest.source.get("images")).get("fingerprint")
    if fingerprint is None or signals.fingerprint is None:
        return True
    if fingerprint != signals.fingerprint:
        findings.differs(
            "images",
            f"these are not the images of the manifest: fingerprint {signals.fingerprint[:16]}… found, "
            f"{str(fingerprint)[:16]}… expected; {PSNR} was not recomputed",
        )
    findings.checked("images", f"{signals.spec.name}, fingerprint {signals.fingerprint[:16]}…")
    return bool(fingerprint == signals.fingerprint)


def _check_images(manifest: Manifest, images: ImageData, given: Limits, findings: Findings) -> ImageData | None:
    """The images as the models saw them; None where these are others, or the manifest does not say."""
    recorded = _mapping(manifest.source.get("images"))
    limited = None
    # Imported zoos tell the images' name and nothing else.
    same = (
        recorded.get("name") == images.spec.name
        if "fingerprint" not in recorded
        else (recorded["fingerprint"] == images.fingerprint)
    )
    if not same:
        findings.differs(
            "images",
            f"these are not the images of the manifest: {images.spec.name} with fingerprint {images.fingerprint[:16]}… "
            f"found, {recorded.get('name')} with {str(recorded.get('fingerprint'))[:16]}… expected; "
            "figures were not recomputed",
        )
    else:
        try:
            asked = {key: value for key, value in dataclasses.asdict(given).items() if value is not None}
            limited = images.limited(Limits(**_mapping(manifest.source.get("limits")) | asked))
        except (TypeError, ValueError) as error:
            findings.differs("images", f"the manifest's limits on images make no sense: {error}")
    findings.checked("images", f"{images.spec.name}, fingerprint {images.fingerprint[:16]}…")
    return limited


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sample(rows: list[CheckedRow], count: int | None) -> list[CheckedRow]:
    """Rows with figures, spread, in the order in which they are read."""
    recorded = [row for row in rows if row.recorded]
    sampled = spread(recorded, len(recorded) if count is None else count)
    return sorted(sampled, key=lambda row: (row.shard.path, row.row_group, row.index))


def _check_figures(
    repo: Path,
    sample: Sequence[CheckedRow],
    rows: Sequence[CheckedRow],
    images: ImageData,
    start: bool,
    findings: Findings,
) -> int:
    """Recompute the sampled ones of all rows; `start` is that of `wrong_figures`. Returns their number."""
    done = size = 0
    pending: list[tuple[CheckedRow, dict[str, Any]]] = []
    wrong: list[CheckedRow] = []
    for (shard, group), members in groupby(sample, key=lambda row: (row.shard, row.row_group)):
        group_rows = list(members)
        try:
            with pq.ParquetFile(repo / shard.path) as file:
                table = file.read_row_group(group).take([row.index for row in group_rows])
            wide = [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]
            matrices = {name: weights_matrix(table, name) for name in wide}
            values = table.drop_columns(wide).to_pylist()
            if WEIGHTS not in wide:  # of rows of different lengths
                for value in values:
                    value[WEIGHTS] = np.array(value[WEIGHTS], np.float32)
        except (*READ_ERRORS, ZooError) as error:
            message = " ".join(str(error).split())[:200]
            findings.differs("figures", f"{shard.path}: {len(group_rows)} rows could not be read: {message}")
            continue
        pending += [
            (row, value | {name: matrix[index] for name, matrix in matrices.items()})
            for index, (row, value) in enumerate(zip(group_rows, values, strict=True))
        ]
        size += sum(matrix.nbytes for matrix in matrices.values())
        if size >= STACK_BYTES:
            done += _recompute(pending, images, start, findings, wrong)
            pending, size = [], 0
    done += _recompute(pending, images, start, findings, wrong)
    if wrong:
        _try_shifts(repo, wrong, rows, images, findings)
    findings.checked("figures", f"of {done:,} of {len(rows):,} rows recomputed from their weights, on all images")
    return done


def _recompute(
    pending: Sequence[tuple[CheckedRow, dict[str, Any]]],
    images: ImageData,
    start: bool,
    findings: Findings,
    wrong: list[CheckedRow],
) -> int:
    """Rows of many row groups at once, so that they fill stacks; gives their number. Adds to `wrong` those that are."""
    try:
        for position, problems in wrong_figures([values for _, values in pending], images, start=start):
            row = pending[position][0]
            wrong += [row] * bool(problems)
            findings.differ("figures", [f"model {row.model_id} at epoch {row.epoch}: {p}" for p in problems])
    except (ZooError, RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        findings.differs("figures", f"{len(pending)} rows could not be recomputed: {message}")
        return 0
    return len(pending)


def _try_shifts(
    repo: Path, wrong: Sequence[CheckedRow], rows: Sequence[CheckedRow], images: ImageData, findings: Findings
) -> None:
    """Say so where the figures of rows are those of the weights one state earlier or later of the same model."""
    models = {row.model_id for row in wrong}
    ordered: dict[str, list[CheckedRow]] = {}
    for row in sorted(rows, key=lambda row: row.epoch):
        if row.model_id in models:
            ordered.setdefault(row.model_id, []).append(row)
    for step, where in ((-1, "one state earlier"), (1, "one state later")):
        pairs = []
        for row in wrong:
            place = ordered[row.model_id].index(row) + step
            if 0 <= place < len(ordered[row.model_id]):
                pairs.append((row, ordered[row.model_id][place]))
        right = _right_with(repo, pairs, images)
        if pairs and 2 * right > len(pairs):
            findings.differs(
                "figures",
                f"{right} of {len(pairs)} wrong rows have the figures of the weights {where}: reports and checkpoints "
                "are shifted by one; build the zoo again from its source, with a version that matches them",
            )
            return


def _right_with(repo: Path, pairs: Sequence[tuple[CheckedRow, CheckedRow]], images: ImageData) -> int:
    """Of how many pairs the figures of the first row are those of the second row's weights."""
    right = 0
    for start in range(0, len(pairs), _SHIFTED):
        mixed = []
        try:
            for row, neighbour in pairs[start : start + _SHIFTED]:
                figures, other = _values_of(repo, row), _values_of(repo, neighbour)
                mixed.append(other | {name: figures[name] for name in FIGURES})
            right += sum(not problems for _, problems in wrong_figures(mixed, images))
        except (*READ_ERRORS, ZooError, RuntimeError):
            return 0  # the rows themselves are differences already
    return right


def _values_of(repo: Path, row: CheckedRow) -> dict[str, Any]:
    """A row by column, with the weights as float32 [D] and no other column as wide."""
    with pq.ParquetFile(repo / row.shard.path) as file:
        names = [name for name in file.schema_arrow.names if name in (*NAMES, LAYOUT)]
        table = file.read_row_group(row.row_group, columns=names).take([row.index])
    values: dict[str, Any] = table.drop_columns([WEIGHTS]).to_pylist()[0]
    return values | {WEIGHTS: weights_matrix(table)[0]}
