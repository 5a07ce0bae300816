"""The table of populations that others published: what they are, whose they are, and where they lie.

`zoo list` shows it, `zoo build NAME` looks a name up in it, pages credit the authors that it names, and
docs/populations.md has its rows. How the files of one are read is a source's matter (`builders/sources/populations`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from zoo_datasets.errors import SourceError, UnknownNameError
from zoo_datasets.repository.credit import UNKNOWN_LICENCE, Credit, Paper

# In place of the servers of all populations: `https://HOST/PATH` becomes `$ZOO_POPULATIONS/PATH`.
MIRROR_VARIABLE = "ZOO_POPULATIONS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """A population that others trained and published.

    Attributes:
        name: `zoo build NAME` knows it by.
        title: what it is, in a few words.
        images: the data set that its networks are of; as in `IMAGES` where that has it.
        architecture: as in `ARCHITECTURES`, or what else its networks are.
        parameters: of each network; None where they differ.
        models, states: as its authors count them; None where they do not.
        epochs: the last one; None where states are of no epoch.
        size: of its files, as its authors say; empty where they do not.
        credit: authors, licence and paper.
        page: where its files lie.
        url: of the file that `zoo build NAME` fetches; empty where only a person can download it.
        verified: what was compared with what, of files in its format.
        unverified: what could not be.
    """

    name: str
    title: str
    images: str
    architecture: str
    parameters: int | None
    models: int | None
    states: int | None
    epochs: int | None = None
    size: str = ""
    credit: Credit
    page: str
    url: str = ""
    verified: str
    unverified: str

    @property
    def location(self) -> str:
        """Where `zoo build NAME` reads from.

        Raises:
            SourceError: if nothing but a person with a browser can fetch it; says where and what to do.
        """
        if not self.url:
            raise SourceError(
                f"{self.name} cannot be fetched by its name: download it from {self.page}, unpack what is not a .zip "
                f"or .tar, and build from the path: zoo build PATH --name {self.name}"
            )
        mirror = os.environ.get(MIRROR_VARIABLE)
        return self.url if not mirror else f"{mirror.rstrip('/')}{urlsplit(self.url).path}"


def _published(authors: str, paper: Paper | None, licence: str = UNKNOWN_LICENCE) -> Credit:
    return Credit(origin="published", authors=authors, licence=licence, paper=paper)


SMALL_CNN = _published(
    "Thomas Unterthiner, Daniel Keysers, Sylvain Gelly, Olivier Bousquet and Ilya Tolstikhin",
    Paper(
        authors="Unterthiner et al.",
        title="Predicting Neural Network Accuracy from Weights",
        bibtex="""@article{unterthiner2020predicting,
  title   = {Predicting Neural Network Accuracy from Weights},
  author  = {Unterthiner, Thomas and Keysers, Daniel and Gelly, Sylvain and Bousquet, Olivier and Tolstikhin, Ilya},
  journal = {arXiv preprint arXiv:2002.11448},
  year    = {2020}
}""",
    ),
    "cc-by-4.0",
)
DWSNETS = _published(
    "Aviv Navon, Aviv Shamsian, Idan Achituve, Ethan Fetaya, Gal Chechik and Haggai Maron",
    Paper(
        authors="Navon et al.",
        title="Equivariant Architectures for Learning in Deep Weight Spaces",
        bibtex="""@inproceedings{navon2023equivariant,
  title     = {Equivariant Architectures for Learning in Deep Weight Spaces},
  author    = {Navon, Aviv and Shamsian, Aviv and Achituve, Idan and Fetaya, Ethan and Chechik, Gal and Maron, Haggai},
  booktitle = {International Conference on Machine Learning},
  year      = {2023}
}""",
    ),
)
NFN = _published(
    "Allan Zhou, Kaien Yang, Kaylee Burns, Adriano Cardace, Yiding Jiang, Samuel Sokota, J. Zico Kolter and "
    "Chelsea Finn",
    Paper(
        authors="Zhou et al.",
        title="Permutation Equivariant Neural Functionals",
        bibtex="""@inproceedings{zhou2023permutation,
  title     = {Permutation Equivariant Neural Functionals},
  author    = {Zhou, Allan and Yang, Kaien and Burns, Kaylee and Cardace, Adriano and Jiang, Yiding and Sokota, Samuel
               and Kolter, J. Zico and Finn, Chelsea},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}""",
    ),
)
IMPLICIT_ZOO = _published(
    "Qi Ma, Danda Pani Paudel, Ender Konukoglu and Luc Van Gool",
    Paper(
        authors="Ma et al.",
        title="Implicit-Zoo: A Large-Scale Dataset of Neural Implicit Functions for 2D Images and 3D Scenes",
        bibtex="""@inproceedings{ma2024implicitzoo,
  title     = {Implicit-Zoo: A Large-Scale Dataset of Neural Implicit Functions for 2D Images and 3D Scenes},
  author    = {Ma, Qi and Paudel, Danda Pani and Konukoglu, Ender and Van Gool, Luc},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year      = {2024}
}""",
    ),
)
ARENA = _published(
    "Samuele Papa, Riccardo Valperga, David Knigge, Miltiadis Kofinas, Phillip Lippe, Jan-Jakob Sonke and "
    "Efstratios Gavves",
    Paper(
        authors="Papa et al.",
        title="How to Train Neural Field Representations: A Comprehensive Study and Benchmark",
        bibtex="""@inproceedings{papa2024train,
  title     = {How to Train Neural Field Representations: A Comprehensive Study and Benchmark},
  author    = {Papa, Samuele and Valperga, Riccardo and Knigge, David and Kofinas, Miltiadis and Lippe, Phillip and
               Sonke, Jan-Jakob and Gavves, Efstratios},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}""",
    ),
)
WEIGHTCLIP = _published("the authors of WeightCLIP (aasefaw on the Hugging Face Hub)", None)
WILD_PARK = _published(
    "Miltiadis Kofinas, Boris Knyazev, Yan Zhang, Yunlu Chen, Gertjan J. Burghouts, Efstratios Gavves, "
    "Cees G. M. Snoek and David W. Zhang",
    Paper(
        authors="Kofinas et al.",
        title="Graph Neural Networks for Learning Equivariant Representations of Neural Networks",
        bibtex="""@inproceedings{kofinas2024graph,
  title     = {Graph Neural Networks for Learning Equivariant Representations of Neural Networks},
  author    = {Kofinas, Miltiadis and Knyazev, Boris and Zhang, Yan and Chen, Yunlu and Burghouts, Gertjan J. and
               Gavves, Efstratios and Snoek, Cees G. M. and Zhang, David W.},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}""",
    ),
)
GPT = _published(
    "William Peebles, Ilija Radosavovic, Tim Brooks, Alexei A. Efros and Jitendra Malik",
    Paper(
        authors="Peebles et al.",
        title="Learning to Learn with Generative Models of Neural Network Checkpoints",
        bibtex="""@article{peebles2022learning,
  title   = {Learning to Learn with Generative Models of Neural Network Checkpoints},
  author  = {Peebles, William and Radosavovic, Ilija and Brooks, Tim and Efros, Alexei A. and Malik, Jitendra},
  journal = {arXiv preprint arXiv:2209.12892},
  year    = {2022}
}""",
    ),
)
NINO = _published(
    "Boris Knyazev, Abhinav Moudgil, Guillaume Lajoie, Eugene Belilovsky and Simon Lacoste-Julien",
    Paper(
        authors="Knyazev et al.",
        title="Accelerating Training with Neuron Interaction and Nowcasting Networks",
        bibtex="""@inproceedings{knyazev2025accelerating,
  title     = {Accelerating Training with Neuron Interaction and Nowcasting Networks},
  author    = {Knyazev, Boris and Moudgil, Abhinav and Lajoie, Guillaume and Belilovsky, Eugene and
               Lacoste-Julien, Simon},
  booktitle = {International Conference on Learning Representations},
  year      = {2025}
}""",
    ),
)

TRANSFORMERS = _published(
    "Viet-Hoang Tran, Thieu N. Vo, An Nguyen The, Tho Tran Huu, Minh-Khoi Nguyen-Nhat, Thanh Tran, Duy-Tung Pham and "
    "Tan Minh Nguyen",
    Paper(
        authors="Tran et al.",
        title="Equivariant Neural Functional Networks for Transformers",
        bibtex="""@inproceedings{tran2025equivariant,
  title     = {Equivariant Neural Functional Networks for Transformers},
  author    = {Tran, Viet-Hoang and Vo, Thieu N. and Nguyen The, An and Tran Huu, Tho and Nguyen-Nhat, Minh-Khoi and
               Tran, Thanh and Pham, Duy-Tung and Nguyen, Tan Minh},
  booktitle = {International Conference on Learning Representations},
  year      = {2025}
}""",
    ),
    "mit",
)

# What the files of the Small CNN Zoo do not say and its authors' code does.
SMALL_CNN_PIXELS: Mapping[str, Any] = {"mode": "L", "grey": "mean", "mean": [0.5], "std": [0.5]}  # x / 255 · 2 − 1
SMALL_CNN_FACTS: Mapping[str, Any] = {
    "train_figures": "evaluation",
    "remarks": [
        "pixels are x / 255 · 2 − 1, colours the mean of the channels, as the authors' code has it",
        "train_loss and train_acc are measured in evaluation mode, on the training subset, at the checkpoint",
        "weight_decay is 2 · l2reg: Keras adds l2reg · Σw² to the loss, of the kernels only",
        "epoch is the authors' step; 0 is before training",
        "there are no validation images, and the batch size is not in the files (512 by default in the authors' code)",
        "seed is 42 in every run: split_by='seed' cannot cut this zoo",
    ],
}
_SMALL_CNN_AT = "https://storage.googleapis.com/gresearch/smallcnnzoo-dataset"
_OUT_OF_REACH = "the real archive was out of reach"


def _small_cnn_zoo(name: str, file: str, images: str, rows: int) -> Population:
    trained = images == "mnist"
    return Population(
        name=f"small_cnn_zoo_{name}",
        title=f"Small CNN Zoo, {images}",
        images=images,
        architecture="small_cnn",
        parameters=4970,
        models=rows // 9,
        states=rows,
        epochs=86,
        size="5.4 GB unpacked",
        credit=SMALL_CNN,
        page="https://github.com/google-research/google-research/tree/master/dnn_predict_accuracy",
        url=f"{_SMALL_CNN_AT}/{file}.tar.xz",
        verified="weights in torch's orientation against an independent reading"
        + ("; every test accuracy and loss of trained networks in this format, recomputed" if trained else ""),
        unverified=f"{_OUT_OF_REACH}; grey as the mean of the channels is the authors' code's",
    )


def _inrs(name: str, title: str, images: str, models: int, credit: Credit, page: str, **more: Any) -> Population:
    known: dict[str, Any] = {
        "name": name, "title": title, "images": images, "architecture": "siren", "parameters": 1185,
        "models": models, "states": models, "credit": credit, "page": page,
        "verified": "weights, labels and signals against an independent reading",
        "unverified": f"{_OUT_OF_REACH}; the convention (ω₀, offset, grid) is that of the authors' code",
    }  # fmt: skip
    return Population(**known | more)


_DROPBOX = "https://www.dropbox.com/sh/56pakaxe58z29mq/AABtWNkRYroLYe_cE3c90DXVa"
_DROPBOX_MNIST = (
    "https://www.dropbox.com/scl/fo/2akm78f7ot4o52o1mrtun/ADLLU8zOj73tswlhhCR_yF8/mnist-inrs.zip"
    "?rlkey=4oj9ao6om06tgmfabyctzu2n2&dl=1"
)
_DRIVE = "https://drive.google.com/drive/folders/15CdOTPWHqDcS4SwbIdm100rXkTYZPcC5"
_ARENA_AT = "https://doi.org/10.5281/zenodo.10392793"


def _gpt(name: str, images: str, architecture: str, parameters: int, size: str) -> Population:
    return Population(
        name=f"gpt_{name}", title=f"G.pt, {name}", images=images, architecture=architecture, parameters=parameters,
        models=None, states=None, size=size, credit=GPT,
        page=f"http://learn2learn.eecs.berkeley.edu/checkpoint_datasets/{name}.zip",
        verified="weights, epochs and steps against an independent reading",
        unverified=f"{_OUT_OF_REACH}; its host may be gone",
    )  # fmt: skip


def _nino(task: str, images: str, parameters: int, models: int, states: int) -> Population:
    return Population(
        name=f"nino_{task}", title=f"NiNo, {task}", images=images,
        architecture="CNN" if task.endswith("-16") else "language model", parameters=parameters,
        models=models, states=models * states, size="about 200 GB all four", credit=NINO,
        page="https://huggingface.co/datasets/SamsungSAILMontreal/nino_metatrain (revision mmap)",
        verified="weights and figures, widened from float16, against an independent reading",
        unverified=_OUT_OF_REACH,
    )  # fmt: skip


_TABLE: tuple[Population, ...] = (
    _small_cnn_zoo("mnist", "mnist", "mnist", 269_973),
    _small_cnn_zoo("fashion_mnist", "fashion_mnist", "fashion_mnist", 270_000),
    _small_cnn_zoo("cifar10", "cifar10", "cifar10", 270_000),
    _small_cnn_zoo("svhn", "svhn_cropped", "svhn", 269_892),
    _inrs(
        "dws_mnist_inrs", "INRs of DWSNets, MNIST", "mnist", 70_000, DWSNETS, _DROPBOX,
        verified="weights against an independent reading; PSNR of fitted networks in this format, recomputed",
        url=_DROPBOX_MNIST,
    ),
    _inrs("dws_fashion_mnist_inrs", "INRs of DWSNets, Fashion-MNIST", "fashion_mnist", 70_000, DWSNETS, _DROPBOX),
    _inrs("nfn_mnist_inrs", "INRs of NFN, MNIST", "mnist", 70_000, NFN, _DRIVE),
    _inrs("nfn_fashion_mnist_inrs", "INRs of NFN, Fashion-MNIST", "fashion_mnist", 70_000, NFN, _DRIVE),
    _inrs("nfn_cifar10_inrs", "INRs of NFN, CIFAR-10, with copies", "cifar10", 60_000, NFN, _DRIVE, parameters=1251),
    _inrs(
        "implicit_zoo_cifar10_inrs", "Implicit-Zoo, CIFAR-10", "cifar10", 60_000, IMPLICIT_ZOO,
        "https://www.kaggle.com/datasets/alexanderqi/cifar10-inrs-dataset", parameters=4547,
    ),
    _inrs("arena_mnist_inrs", "Neural Field Arena, MNIST", "mnist", 70_000, ARENA, _ARENA_AT, parameters=None),
    _inrs("arena_cifar10_inrs", "Neural Field Arena, CIFAR-10", "cifar10", 60_000, ARENA, _ARENA_AT, parameters=None),
    _inrs(
        "arena_shapenet_inrs", "Neural Field Arena, ShapeNet", "shapenet", 34_800, ARENA, _ARENA_AT, parameters=None
    ),
    _inrs(
        "arena_microimagenet_inrs", "Neural Field Arena, MicroImageNet", "micro_imagenet", 60_000, ARENA, _ARENA_AT,
        parameters=None,
    ),
    Population(
        name="weightclip", title="WeightCLIP, 20 sets of CNNs", images="20 sets", architecture="cnn_l", parameters=None,
        models=2_000, states=10_000, epochs=34, size="2.5 GB", credit=WEIGHTCLIP,
        page="https://huggingface.co/aasefaw/WeightCLIP (model_zoos/cnn3/*.tar.gz, one config each)",
        verified="weights and figures against an independent reading",
        unverified=f"{_OUT_OF_REACH}; its images are TANS's, which are not in the table, so figures are not recomputed",
    ),
    Population(
        name="cnn_wild_park", title="CNN Wild Park", images="cifar10", architecture="CNNs of many shapes",
        parameters=None, models=2_800, states=117_241, epochs=200, credit=WILD_PARK,
        page="https://doi.org/10.5281/zenodo.12797219",
        url="https://zenodo.org/records/12797219/files/cnn_wild_park.zip",
        verified="weights against an independent reading; outputs against a reference with its residual sums",
        unverified=_OUT_OF_REACH,
    ),
    _gpt("mnist", "mnist", "mlp", 7960, "68 GB"),
    _gpt("cifar10", "cifar10", "CNN", 5370, "275 GB"),
    _gpt("cartpole", "cartpole", "MLP", 1250, "82 GB"),
    _nino("fm-16", "fashion_mnist", 14_378, 300, 2_688),
    _nino("c10-16", "cifar10", 14_666, 300, 2_513),
    _nino("lm1b-3-24", "lm1b", 1_252_464, 200, 124),
    _nino("lm1b-2-32", "lm1b", 1_666_464, 200, 124),
    *(
        Population(
            name=f"{images}_transformers", title=f"Small Transformer Zoo, {title}", images=images,
            architecture="transformer", parameters=None, models=None, states=None, credit=TRANSFORMERS,
            page="https://huggingface.co/datasets/anonymized-acamedia/Small-Transformer-Zoo",
            verified="tensors and columns against an independent reading",
            unverified=f"{_OUT_OF_REACH}; no kind of layer computes attention, so functions are not restored",
        )
        for images, title in (("mnist", "MNIST"), ("ag_news", "AG News"))
    ),
)  # fmt: skip

POPULATIONS: Mapping[str, Population] = {population.name: population for population in _TABLE}
if len(POPULATIONS) != len(_TABLE):
    raise ValueError(f"the table of populations repeats a name: {[population.name for population in _TABLE]}")


def list_populations() -> list[Population]:
    """The populations of others that a repository can be built from, in the order of the table."""
    return list(_TABLE)


def get_population(name: str) -> Population:
    """The population of that name.

    Raises:
        UnknownNameError: with the names that are near.
    """
    if name not in POPULATIONS:
        raise UnknownNameError("population", name, POPULATIONS, "`zoo list` shows all")
    return POPULATIONS[name]


def markdown_rows() -> Iterator[str]:
    """The rows of docs/populations.md, the head of the table first."""
    yield "| name | models | states | size | licence | paper | verified | not verified |"
    yield "|---|---:|---:|---|---|---|---|---|"
    for one in _TABLE:
        licence = "not stated" if one.credit.licence == UNKNOWN_LICENCE else one.credit.licence
        paper = "–" if one.credit.paper is None else f"{one.credit.paper.authors}, *{one.credit.paper.title}*"
        fetched = "" if one.url else " ¹"
        counts = f"{_number(one.models)} | {_number(one.states)} | {one.size or '–'}"
        yield f"| `{one.name}`{fetched} | {counts} | {licence} | {paper} | {one.verified} | {one.unverified} |"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
