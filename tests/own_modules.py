"""Networks of a user's own code, good ones and such as cannot be trained."""

import random

import torch
from torch import nn
from torch.nn import functional


def make_mlp(in_channels, classes, image_size, hidden=6):
    size = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, classes))


def make_dropout(in_channels, classes):
    return nn.Sequential(
        nn.MaxPool2d(7), nn.Flatten(), nn.Linear(16 * in_channels, 8), nn.Dropout(0.5), nn.Linear(8, classes)
    )


def make_normed(in_channels, classes):
    conv = nn.Conv2d(in_channels, 4, 3, stride=3)
    return nn.Sequential(
        conv, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


class Branching(nn.Module):
    """Its forward pass asks numbers, which a stack cannot answer."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(784, classes)

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits if logits.sum() > 0 else 2 * logits


def make_branching(in_channels, classes):
    return Branching(classes)


def tied(in_channels, classes):
    first, second = nn.Linear(784, 784), nn.Linear(784, 784)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, second, nn.Linear(784, classes))


def double(in_channels, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes)).double()


def complex_numbers(in_channels, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes, dtype=torch.complex64))


def lazy(in_channels, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def wrong_shape(in_channels, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes + 1))


def no_parameters(in_channels, classes):
    return nn.Flatten()


def no_module(in_channels, classes):
    return [1]


def no_arguments():
    return nn.Flatten()


def other_generator(in_channels, classes):
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
    nn.init.constant_(module[1].bias, random.random())
    return module


class Noisy(nn.Module):
    """Draws in evaluation too."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(784, classes)

    def forward(self, images):
        return functional.dropout(self.linear(images.flatten(1)), 0.5, training=True)


def noisy(in_channels, classes):
    return Noisy(classes)


class Counting(nn.Module):
    """Counts what no file would hold."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(784, classes)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, images):
        self.passes += int(self.training)
        return self.linear(images.flatten(1))


def counting(in_channels, classes):
    return Counting(classes)


NUMBER = 3
borrowed = functional.relu
