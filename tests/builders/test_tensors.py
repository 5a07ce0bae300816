"""Tensors as tools save them act in the rows as they act in torch, or are refused with a remedy."""

import argparse
import collections
import datetime
import pathlib
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from raw_zoos import PARAMS, SEED_ZOO, make_zoo, saved, state_dict, trial_name, weights_of, write_trial
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from zoo_datasets.builders import build_repository
from zoo_datasets.builders.checkpoints.recognise import acting_weights, recognise
from zoo_datasets.builders.checkpoints.structure import as_files
from zoo_datasets.builders.checkpoints.torch_file import CheckpointReader
from zoo_datasets.errors import CheckpointError
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.repository.manifest import read_manifest


def network(seed=0):
    """A cnn_s in the words of the authors' training code."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Tanh(), nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.Tanh(),
              nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 10)]  # fmt: skip
    module = nn.Module()
    module.module_list = nn.ModuleList(layers)
    return module


def layers_of(module):
    return [one for one in module.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]


def acting(module):
    """float32 [D], the weights with which a module computes."""
    parts = [tensor.detach().flatten() for layer in layers_of(module) for tensor in (layer.weight, layer.bias)]
    return torch.cat(parts).numpy()


def read(state, **options):
    """What an import makes of a checkpoint: float32 [D], and the codes of its notes."""
    data = state if isinstance(state, bytes) else saved(state, **options)
    recognised = recognise(CheckpointReader().structure(data))
    weights, _, _ = acting_weights(recognised, as_files([data, data]))
    assert np.array_equal(weights[0], weights[1])
    return weights[0], [note.code for note in recognised.notes]


def masked(module):
    for layer in layers_of(module):
        prune.l1_unstructured(layer, "weight", amount=0.5)
        prune.random_unstructured(layer, "bias", amount=0.3)
    return module


def weight_normed(normed, **options):
    def wrap(module):
        for layer in layers_of(module):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                normed(layer, "weight", **options)
            magnitudes = dict(layer.named_parameters())
            name = "weight_g" if "weight_g" in magnitudes else "parametrizations.weight.original0"
            magnitudes[name].data.mul_(1.7)
        module.eval()
        for layer in layers_of(module):  # the old one computes the weight in its forward pass
            layer(torch.zeros(1, 36 if layer.weight.shape[1] == 36 else 20) if isinstance(layer, nn.Linear)
                  else torch.zeros(1, layer.in_channels, 5, 5))  # fmt: skip
        return module

    return wrap


def counted(module):
    for one in module.modules():  # as thop leaves it
        one.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        one.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    return module


def compiled(module):
    """As torch.compile and DataParallel around each other name what they hold."""
    outer, inner = nn.Module(), nn.DataParallel(module)
    outer._orig_mod = inner
    inner.module.module_list[0] = compiled_part(module.module_list[0])
    return outer


def compiled_part(layer):
    part = nn.Module()
    part._orig_mod = layer
    return part


@pytest.mark.parametrize(
    ("wrap", "codes"),
    [
        (masked, []),
        (weight_normed(nn.utils.weight_norm), ["import-weight-norm"]),
        (weight_normed(nn.utils.weight_norm, dim=1), ["import-weight-norm"]),
        (weight_normed(nn.utils.weight_norm, dim=None), ["import-weight-norm"]),
        (weight_normed(parametrizations.weight_norm), ["import-weight-norm"]),
        (torch.optim.swa_utils.AveragedModel, ["import-averaged-weights"]),
        (counted, ["import-counters"]),
        (nn.DataParallel, []),
        (compiled, []),
    ],
    ids=["pruned", "weight_norm", "weight_norm-1", "weight_norm-none", "parametrised", "averaged", "thop", "parallel",
         "compiled"],
)  # fmt: skip
@pytest.mark.parametrize("order", ["saved", "sorted"])
def test_the_weights_that_act_are_read_whatever_wraps_them(wrap, codes, order):
    module = wrap(network())
    state = module.state_dict()
    weights, noted = read(state if order == "saved" else {name: state[name].clone() for name in sorted(state)})
    assert np.array_equal(weights, acting(module))
    assert noted == codes


def test_modules_stand_in_any_order_where_names_or_shapes_tell_it():
    expected = weights_of(1, 0).numpy()
    tensors = state_dict(weights_of(1, 0))
    own = layout_of("cnn_s", 1, 10).unflatten(weights_of(1, 0))
    for state in (tensors, own, {f"net.module.{name}": tensor for name, tensor in own.items()}):
        for names in (sorted(state), sorted(state, reverse=True), sorted(state, key=lambda name: name[::-1])):
            assert np.array_equal(read({name: state[name].clone() for name in names})[0], expected)


def test_modules_of_the_same_shapes_are_told_by_the_names_of_the_layout_alone():
    layout = layout_of("resnet18", 3, 10)
    state = layout.unflatten(torch.randn(layout.size))
    weights, _ = read({f"module.{name}": state[name].clone() for name in sorted(state)})
    assert np.array_equal(weights, layout.flatten(state).numpy())
    strange = {name.replace("conv", "a").replace("bn", "b").replace("layer", "s"): state[name] for name in state}
    assert np.array_equal(read(strange)[0], weights)
    with pytest.raises(CheckpointError, match="match no architecture"):
        read({name: strange[name] for name in sorted(strange)})


def test_masks_of_other_values_than_0_and_1_scale():
    state = state_dict(weights_of(1, 0))
    state["module_list.0.weight_mask"] = torch.full((8, 1, 5, 5), 0.5)
    weights, _ = read(state)
    assert np.array_equal(weights[:200], weights_of(1, 0).numpy()[:200] * np.float32(0.5))


def test_negative_bits_turn_the_sign_and_others_are_refused():
    expected = weights_of(1, 0)
    state = {name: torch._neg_view(tensor) for name, tensor in state_dict(expected).items()}
    assert np.array_equal(read(state)[0], -expected.numpy())
    state = state_dict(expected)
    state["module_list.3.bias"] = torch.complex(torch.zeros(6), torch.arange(6.0)).conj().imag
    assert read(state)[0][1408:1414].tolist() == [0, -1, -2, -3, -4, -5]
    odd = torch.ones(6, dtype=torch.complex64)
    with pytest.raises(CheckpointError, match=r"holds complex64; weights are real numbers: save their real part"):
        read(state | {"module_list.3.bias": odd})
    with pytest.raises(CheckpointError, match=r"has the bit 'conj'; save tensors with their bits resolved"):
        read(state | {"module_list.3.bias": odd.conj()})
    conjugate = saved({name: torch._neg_view(tensor) for name, tensor in state_dict(expected).items()})
    assert refusal(conjugate.replace(b"X\x03\x00\x00\x00neg", b"X\x03\x00\x00\x00cnj")) != ""


def refusal(data):
    try:
        read(data)
    except CheckpointError as error:
        return str(error)
    return ""


def test_attributes_of_tensors_and_dictionaries_are_left_aside():
    state = state_dict(weights_of(1, 0))
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    state["module_list.0.weight"].partition = ("data", 3)
    parameter = nn.Parameter(state["module_list.0.bias"])
    parameter.is_shared = np.float64(1)
    state["module_list.0.bias"] = parameter
    state["module_list.3.bias"] = nn.Buffer(state["module_list.3.bias"])
    assert np.array_equal(read(state)[0], weights_of(1, 0).numpy())


EXTRAS = {
    "epoch": 3, "best": np.float64(0.5), "step": np.int64(7), "history": np.arange(4.0), "flags": {1, 2},
    "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/x")), "when": datetime.datetime(2024, 1, 2),
    "counts": collections.Counter("abca"), "groups": collections.defaultdict(list, {0: [1]}), "none": None,
    "dtype": torch.float32, "device": torch.device("cpu"), "shape": torch.Size([2, 3]), "frozen": frozenset("ab"),
    "recent": collections.deque([1, 2], maxlen=3), "bytes": b"abc", "by share": {0.5: 1, True: 2, None: 3}, "c": 1 + 2j,
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("net", "params"), ("checkpoint", "model_state_dict")])
def test_the_state_dict_of_a_whole_checkpoint_is_taken(keys, protocol):
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    wrapped = module.state_dict()
    for key in reversed(keys):
        wrapped = {key: wrapped}
    weights, codes = read({"optimizer": optimizer.state_dict()} | EXTRAS | wrapped, pickle_protocol=protocol)
    assert np.array_equal(weights, acting(module))
    assert codes == ["import-wrapped-checkpoint"]


def test_values_beside_the_tensors_are_left_aside():
    state = state_dict(weights_of(1, 0))
    weights, codes = read(dict(state) | {"epoch": 3, "acc": np.float32(0.5)})
    assert np.array_equal(weights, weights_of(1, 0).numpy())
    assert codes == ["import-wrapped-checkpoint"]
    lightning = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "callbacks": {"a": {"b": 1}},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }
    for content in (lightning, (3, state, {"param_groups": []}), [{"model": [state]}]):
        assert np.array_equal(read(content)[0], weights)


def quantised(state):
    return state | {"module_list.3.bias": torch.quantize_per_tensor(torch.ones(6), 0.1, 0, torch.qint8)}


def with_parametrization(kind):
    def wrap(state):
        module = network()
        kind(layers_of(module)[0])
        return module.state_dict()

    return wrap


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: {"state_dict": state, "ema_state_dict": dict(state)},
         r"holds 2 state dicts \(state_dict, ema_state_dict\); save the one that counts alone"),
        (lambda state: network(), r"names torch.nn.modules.module.Module.*; save the state dict alone"),
        (lambda state: {name: tensor.numpy() for name, tensor in state.items()},
         r"is a numpy[.\w]*\._reconstruct, expected a tensor"),
        (quantised, r"_rebuild_qtensor.*; save tensor.dequantize\(\)"),
        (lambda state: state | {"module_list.3.bias": torch.ones(6).to_sparse()}, r"; save tensor.to_dense\(\)"),
        (with_parametrization(lambda layer: parametrize.register_parametrization(layer, "weight", Doubled())),
         r"remove_parametrizations\(module, 'weight'\)"),
        (with_parametrization(parametrizations.orthogonal), r"remove_parametrizations\(module, 'weight'\)"),
        (with_parametrization(parametrizations.spectral_norm), r"remove_parametrizations\(module, 'weight'\)"),
        (with_parametrization(nn.utils.spectral_norm), r"remove_spectral_norm\(module\)"),
        (lambda state: state | {"module_list.0.weight_orig": torch.ones(8, 1, 5, 5)}, "are both the weight"),
        (lambda state: state | {"module_list.0.weight_g": torch.ones(8, 1, 1, 1)}, "belongs to no weight"),
        (lambda state: {k.replace("0.weight", "0.weight_v"): v for k, v in state.items()}, "belongs to no weight"),
        (lambda state: {k.replace("0.weight", "0.weight_v"): v for k, v in state.items()}
         | {"module_list.0.weight_g": torch.ones(4, 1, 1, 1)}, "scales no axis of"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_remedy(change, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = saved(change(dict(state_dict(weights_of(1, 0)))))
    with pytest.raises(CheckpointError, match=reason):
        read(data)


def rows_of(repo):
    rows = [
        row
        for shard in read_manifest(repo, "mnist_cnn_s").shards
        for row in pq.read_table(repo / shard.path).to_pylist()
    ]
    return {(row["seed"], row["epoch"]): np.array(row["weights"], np.float32) for row in rows}


def test_a_zoo_of_such_checkpoints_is_built_and_each_kind_is_counted(tmp_path):
    wraps = [weight_normed(nn.utils.weight_norm), torch.optim.swa_utils.AveragedModel, masked, lambda module: module]
    expected = {}
    for seed, wrap in enumerate(wraps):
        params, states = PARAMS | {"seed": seed}, {}
        for epoch in (0, 1):
            module = wrap(network(10 * seed + epoch))
            expected[seed, epoch] = acting(module)
            states[epoch] = saved(
                module.state_dict() if seed < 3 else {"epoch": epoch, "state_dict": module.state_dict()}
            )
        write_trial(tmp_path / SEED_ZOO / trial_name(seed, seed), params, states)
    result = build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    assert result.left_out == ()
    rows = rows_of(tmp_path / "repo")
    assert rows.keys() == expected.keys()
    assert all(np.array_equal(rows[key], expected[key]) for key in rows)
    codes = read_manifest(tmp_path / "repo", "mnist_cnn_s").source["note_codes"]
    named = ("import-weight-norm", "import-averaged-weights", "import-masked-weights", "import-wrapped-checkpoint")
    assert {code: codes.get(code) for code in named} == dict.fromkeys(named, 2)


def test_masked_models_without_parents_are_a_dense_zoo_with_zeros(tmp_path):
    for folder in make_zoo(tmp_path / SEED_ZOO, models=2, epochs=(0,)):
        (folder / "checkpoint_000000" / "checkpoints").write_bytes(saved(masked(network()).state_dict()))
    result = build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    assert (result.rows, result.config) == (2, "mnist_cnn_s")
    assert "import-masked-weights" in result.codes.values()
    assert all((weights == 0).sum() >= 1208 for weights in rows_of(tmp_path / "repo").values())
