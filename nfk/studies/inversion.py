"""`inversion`: is what the embedding holds enough to draw the image again? (The paper's Figure 4.)

Images x = G(h) of random latents h are embedded by the leading k modes of *their own* Fisher vectors, as in the paper;
a ridge regression maps e(G(h)) to h, its strength chosen by the mean squared error of h on latents held out. A real
test image is then drawn again as G(map(e(x))). The rivals: the same from k principal components of the same generated
images' pixels ("PCA, generator"); without a generator, the image's own projection on k principal components of the
training images, cut to [0, 1] ("PCA, pixels"); another generated image at random, and the mean training image.

Reported of each: the mean squared error a pixel, and the agreement of a classifier (trained on the training images):
the share of test images given the same class as their reconstruction.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, UInt8
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.figures.images import labelled_rows
from nfk.family_params import MODEL_PARAMS
from nfk.linalg.gram import gram_svd
from nfk.linalg.rows import StoredRows, image_pass
from nfk.models.families import MODELS
from nfk.models.protocol import Generator
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import InversionParams

NFK, PCA_GENERATOR, PCA_PIXELS, RANDOM, MEAN = (
    "NFK, generator", "PCA, generator", "PCA, pixels", "another generated image", "mean image")
_SHOWN = 14


class Codes(NamedTuple):
    """One representation of generated images to fit on, of others to choose on, and of real ones."""

    fitted: Float[np.ndarray, "n k"]
    held_out: Float[np.ndarray, "v k"]
    real: Float[np.ndarray, "t k"]


class Map(NamedTuple):
    """The ridge regression chosen, and what it makes of the real images."""

    strength: float
    error: float
    """mean squared error of h, per number, on the latents held out; 1 tells nothing"""
    at_end: bool
    """the strength is the first or last of those tried"""
    latents: Float[np.ndarray, "t z"]


def run(material: Material, params: InversionParams, report: Report) -> Findings:
    model = material.model
    if not isinstance(model, Generator):
        raise ValueError(f"study inversion: {type(model).__name__} has no generate(latents); name a family that has, "
                         "such as dcgan")
    real = np.asarray(material.images.examples("test")[0 : material.images.examples("test").shape[0]])
    latents = np.asarray(jax.random.normal(material.key("latents"), (params.generated + params.held_out,
                                                                     model.latents)))
    generated = model.generate(latents)
    known, unknown = np.split(latents, [params.generated])
    codes = {NFK: fisher_codes(material, generated, real, params, report)}
    pixels = _components(generated[: params.generated], params.rank, material.seed)
    codes[PCA_GENERATOR] = Codes(*(pixels.transform(_flat(part)).astype(np.float32) for part in (
        generated[: params.generated], generated[params.generated :], real)))
    maps = {name: fitted_map(each, known, unknown, params.strengths) for name, each in codes.items()}
    drawn = {name: model.generate(found.latents) for name, found in maps.items()}
    drawn[PCA_PIXELS] = projected(material.images.pixels("train", material.labelled), real, params.rank, material.seed)
    drawn[RANDOM] = generated[np.arange(len(real)) % len(generated)]
    mean = material.images.pixels("train", material.labelled).mean(axis=0, dtype=np.float64) / 255
    drawn[MEAN] = np.broadcast_to(mean, real.shape).astype(np.float32)
    classify, held = _classifier(material, params, report)
    seen, labels = classify(real), material.images.labels("test")
    found: dict[str, Any] = {}
    for name, images in drawn.items():
        squares = ((images - real) ** 2).mean(axis=(1, 2, 3), dtype=np.float64)
        agreement, right = accuracy(classify(images), seen), accuracy(classify(images), labels)
        found[name] = {"mse": float(squares.mean()), "mse_error": float(squares.std(ddof=1) / np.sqrt(len(squares))),
                       "agreement": agreement.value, "agreement_error": agreement.standard_error,
                       "accuracy": right.value}
    for name, chosen in maps.items():
        found[name] |= {"strength": chosen.strength, "latent_error": chosen.error, "at_end": chosen.at_end}
    numbers = {"rank": codes[NFK].fitted.shape[1], "latents": model.latents, "test_images": len(real),
               "classifier": {"model": params.classifier, "validation_accuracy": held,
                              "test_accuracy": accuracy(seen, labels).value}, "reconstructions": found}
    rows = tuple((name, f"{one['mse']:.4f} ± {one['mse_error']:.4f}",
                  f"{100 * one['agreement']:.1f} ± {100 * one['agreement_error']:.1f}", f"{100 * one['accuracy']:.1f}",
                  f"{one['latent_error']:.3f}" if "latent_error" in one else "") for name, one in found.items())
    shown = {"Test image": real[:_SHOWN], **{name[0].upper() + name[1:]: images[:_SHOWN]
                                             for name, images in drawn.items() if name != MEAN}}
    return Findings(
        f"same class as the test image: {found[NFK]['agreement']:.1%} drawn from {numbers['rank']} numbers of the "
        f"NFK, {found[PCA_GENERATOR]['agreement']:.1%} from as many of PCA; mean squared error {found[NFK]['mse']:.3f} "
        f"against {found[PCA_GENERATOR]['mse']:.3f}", numbers,
        Table(("drawn from", "mean squared error", "same class, %", "true class, %", "error of h on generated images"),
              rows), {"reconstructions": labelled_rows(shown)})


def fisher_codes(
    material: Material, generated: Float[np.ndarray, "n h w c"], real: Float[np.ndarray, "t h w c"],
    params: InversionParams, report: Report,
) -> Codes:
    """Embeddings by the leading modes of the first `params.generated` images' Fisher vectors. Holds these."""
    rows = material.vectors
    fitted = StoredRows(rows(generated[: params.generated]))
    factors = gram_svd(fitted, rank=min(params.rank, *fitted.shape), progress=report)
    right = jnp.asarray(factors.right)
    return Codes(*(image_pass(each, right, label=what, progress=report) for each, what in (
        (fitted, "generated images"), (rows(generated[params.generated :]), "held out"), (rows(real), "test images"))))


def projected(
    known: UInt8[np.ndarray, "n h w c"], images: Float[np.ndarray, "t h w c"], rank: int, seed: int
) -> Float[np.ndarray, "t h w c"]:
    """Images as their leading principal components leave them, of `known` images, cut to [0, 1]: of all maps through so
    many linear numbers that with the least squared error on `known`."""
    fitted = _components(known / np.float32(255), rank, seed)
    back = fitted.inverse_transform(fitted.transform(_flat(images)))
    return np.clip(back, 0, 1).reshape(images.shape).astype(np.float32)


def fitted_map(
    codes: Codes, known: Float[np.ndarray, "n z"], unknown: Float[np.ndarray, "v z"], strengths: tuple[float, ...]
) -> Map:
    """The ridge regression of h on the codes with the smallest error on the latents held out, the strongest of equals.

    A and b minimise sum |h - A e - b|^2 + strength * (sum |e - mean|^2 / k) * |A|^2, sums over images: the strength is
    relative to the codes' own spread, so that one grid serves codes of any scale.
    """
    centred = codes.fitted - codes.fitted.mean(axis=0, dtype=np.float64)
    unit = float(np.sum(centred**2)) / centred.shape[1]
    best: tuple[float, float, Ridge] | None = None
    for strength in sorted(strengths, reverse=True):
        with threadpool_limits(limits=1):
            regression = Ridge(alpha=strength * unit).fit(codes.fitted.astype(np.float64), known)
        error = float(np.mean((regression.predict(codes.held_out.astype(np.float64)) - unknown) ** 2))
        if best is None or error < best[0]:
            best = error, strength, regression
    if best is None:
        raise ValueError("no strength to choose from; give at least one")
    error, strength, regression = best
    return Map(strength, error, strength in (min(strengths), max(strengths)),
               regression.predict(codes.real.astype(np.float64)).astype(np.float32))


def _classifier(material: Material, params: InversionParams, report: Report) -> tuple[Any, float]:
    """Images in [0, 1] -> classes, by a small classifier of the training images; and its validation accuracy."""
    kind, images = MODELS[params.classifier], material.images
    train = images.pixels("train", material.labelled), images.labels("train", material.labelled)
    held_out = images.pixels("validation"), images.labels("validation")
    network = kind.initial(_classifier_params(params, len(train[0])), images.shape, len(images.class_names),
                           material.key("classifier"))
    trained = network.train(*train, held_out, material.key("judge"), report, material.checkpoint)
    batch = jax.jit(trained.model.activations)

    def classify(given: Float[np.ndarray, "n h w c"]) -> Integer[np.ndarray, " n"]:
        return np.concatenate([np.asarray(batch(given[start : start + 256])["logits"]).argmax(axis=1)
                               for start in range(0, len(given), 256)])

    return classify, float(trained.metrics["validation_accuracy"])


def _classifier_params(params: InversionParams, count: int) -> Any:
    kind = MODEL_PARAMS[params.classifier]
    return kind(epochs=params.classifier_epochs, batch=min(kind.model_fields["batch"].default, count))


def _components(images: Float[np.ndarray, "n h w c"], rank: int, seed: int) -> PCA:
    flat = _flat(images)
    return PCA(min(rank, *flat.shape), random_state=seed).fit(flat)


def _flat(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
    return images.reshape(len(images), -1)

