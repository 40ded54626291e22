"""The labels that go with the labelled part of each split."""

from __future__ import annotations

from nfk.evaluation.features import Labels
from nfk.params import Params
from nfk.stages.images import Images


def is_known(images: Images) -> bool:
    """Whether there are classes to tell apart. Images of one class, or of none, can be embedded, not probed."""
    return len(images.class_names) > 1


def labels(params: Params, images: Images) -> Labels:
    """Classes of the leading evaluate.examples training images and of all validation and test images."""
    return Labels(images.labels("train", params.labelled), images.labels("validation"),
                  images.labels("test"))
