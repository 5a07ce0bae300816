import pytest

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.specs.zoos import get_zoo, list_zoos, read_zoo, twins_of, zoo_from_dict

YAML = """
name: my_zoo
images: mnist
architecture: cnn_s
epochs: 5
activation: [tanh, relu]
init: kaiming_uniform
optimizer: adam
lr: 1e-3
weight_decay: 0
seeds: 4
"""


def test_the_published_table_adds_up_to_the_papers_counts():
    published = [zoo for zoo in list_zoos() if zoo.published]
    assert len(published) == 27
    assert sum(zoo.models for zoo in published) == 50_360
    # The paper counts ResNets from epoch 1.
    as_the_paper = sum(zoo.models * (zoo.epochs + (zoo.architecture != "resnet18")) for zoo in published)
    assert as_the_paper == 2_585_360
    assert sum(zoo.states for zoo in published) == 2_588_360
    sparse = [twin for zoo in published for twin in twins_of(zoo) if twin.sparsifier == "variational_dropout"]
    assert as_the_paper + sum(twin.models * twin.epochs for twin in sparse) == 3_844_360


def test_our_own_zoos_and_twins_are_there():
    names = {zoo.name for zoo in list_zoos()}
    assert {"eurosat_cnn_s", "digits_cnn_s"} <= names
    assert {"mnist_small_cnn", "svhn_small_cnn", "mnist_mlp", "cifar10_resnet18_w8"} <= names
    assert len(twins_of(get_zoo("eurosat_cnn_s"))) == 10
    twin = get_zoo("eurosat_cnn_s_magnitude50")
    assert (twin.parent, twin.sparsifier, twin.amount, twin.epochs) == ("eurosat_cnn_s", "magnitude", 0.5, 15)
    assert get_zoo("mnist_cnn_s_hyp_fix_sparse").parent == "mnist_cnn_s_hyp_fix"


@pytest.mark.parametrize(
    ("name", "points", "models"),
    [("mnist_cnn_s_hyp_fix", 256, 2560), ("svhn_cnn_s_hyp_rand", 432, 4320), ("cifar10_cnn_l_hyp_fix", 128, 1280)],
)
def test_grids_have_the_published_sizes(name, points, models):
    assert (get_zoo(name).points, get_zoo(name).models) == (points, models)


def test_an_unknown_name_says_which_are_near():
    with pytest.raises(UnknownNameError, match="no zoo named 'cifar10_cnn'.*cifar10_cnn_s or cifar10_cnn_l"):
        get_zoo("cifar10_cnn")
    with pytest.raises(KeyError):
        get_zoo("nothing_like_it")


def test_a_zoo_of_ones_own_is_a_yaml_file(tmp_path):
    file = tmp_path / "my_zoo.yaml"
    file.write_text(YAML)
    zoo = read_zoo(file)
    assert zoo.models == 8
    assert zoo.lr == (1e-3,)  # YAML 1.1 reads 1e-3 as a text
    assert zoo.activation == ("tanh", "relu")


@pytest.mark.parametrize("name", [zoo.name for zoo in list_zoos()] + ["mnist_cnn_s_sparse"])
def test_every_zoo_survives_plain_data(name):
    assert zoo_from_dict(get_zoo(name).to_dict(), "here") == get_zoo(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1e-3", "lr: fast", r"my_zoo.yaml: lr\.0: .*valid number.*found 'fast'"),
        ("epochs: 5", "epoch: 5", "epochs: missing; epoch: unknown field"),
        ("[tanh, relu]", "swish", r"activation\.0: .*'tanh'.*found 'swish'"),
        ("seeds: 4", "seeds: 0", "seeds: expected 1 to 1,000,000, found 0"),
        ("seeds: 4", "seeds: 4\nparent: mnist_cnn_s", "parent, sparsifier: a zoo of your own is dense"),
        (YAML, "just a text", "expected a mapping"),
        (YAML, "a: [", "could not be read as YAML"),
    ],
)
def test_errors_in_a_yaml_file_name_the_field(tmp_path, old, new, message):
    file = tmp_path / "my_zoo.yaml"
    file.write_text(YAML.replace(old, new))
    with pytest.raises(SpecError, match=message):
        read_zoo(file)


def test_a_missing_yaml_file_is_a_clear_error(tmp_path):
    with pytest.raises(SpecError, match=r"gone\.yaml could not be read"):
        read_zoo(tmp_path / "gone.yaml")
