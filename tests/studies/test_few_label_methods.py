"""Each method's losses against small cases worked out by hand, and each method learning from few labels."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.checkpoint import Forgetful
from nfk.models.classifier import AdamAndShift
from nfk.models.dcgan import Generator
from nfk.studies.few_label_methods import improved_gan, mean_teacher, mixmatch, mixup, vat
from nfk.studies.few_label_methods.improved_gan import ImprovedGan
from nfk.studies.few_label_methods.mean_teacher import MeanTeacher
from nfk.studies.few_label_methods.method import Batch, Moment, Network, cross_entropy
from nfk.studies.few_label_methods.mixmatch import MixMatch
from nfk.studies.few_label_methods.mixup import Mixup
from nfk.studies.few_label_methods.supervised import Supervised
from nfk.studies.few_label_methods.training import Pool, Rows, Training, rows_of_steps
from nfk.studies.few_label_methods.vat import Vat
from tests.models.small_networks import CLASSES, squares
from tests.studies.conftest import Memory


def logits_of(*probabilities: list[float]) -> jax.Array:
    """Whose softmax these are; any constant may be added."""
    return jnp.log(jnp.array(probabilities)) + 0.7


def about(value):
    return pytest.approx(value, rel=1e-5, abs=1e-7)


def test_cross_entropy_takes_any_distribution():
    found = cross_entropy(jnp.array([[1.0, 0.0], [0.25, 0.75]]), logits_of([0.5, 0.5], [0.2, 0.8]))
    assert float(found) == about(-(np.log(0.5) + 0.25 * np.log(0.2) + 0.75 * np.log(0.8)) / 2)


def test_mixing_is_row_by_row_on_images_and_labels():
    first, second = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.0, 1.0], [0.5, 0.5]])
    assert np.asarray(mixup.mixed(first, second, jnp.array([0.75, 0.5]))) == about(
        np.array([[0.75, 0.25], [0.25, 0.75]]))
    images = mixup.mixed(jnp.ones((2, 3, 3, 1)), jnp.zeros((2, 3, 3, 1)), jnp.array([0.25, 1.0]))
    assert np.asarray(images[0]) == about(np.full((3, 3, 1), 0.25)) and np.asarray(images[1]) == about(1.0)


def test_divergence_by_hand():
    found = vat.divergence(logits_of([0.5, 0.5], [0.9, 0.1]), logits_of([0.25, 0.75], [0.9, 0.1]))
    assert np.asarray(found) == about(np.array([0.5 * np.log(2) + 0.5 * np.log(2 / 3), 0.0]))


def test_the_adversarial_step_of_a_linear_classifier_is_along_its_weights():
    """Logits (w . x, -w . x): the divergence's Hessian is a multiple of w w^T, so d = ± w / |w|."""
    weights = jnp.array([3.0, -4.0, 0.0, 0.0]).reshape(1, 2, 2, 1)

    def logits(images):
        drive = (images * weights).sum(axis=(1, 2, 3))
        return jnp.stack([drive, -drive], axis=1) / 10

    images = jnp.zeros((5, 2, 2, 1))
    direction = vat.adversarial_direction(logits, images, logits(images), jax.random.key(0))
    assert np.abs(np.asarray(direction)).reshape(5, 4) == pytest.approx(np.tile([0.6, 0.8, 0, 0], (5, 1)), abs=1e-3)
    # KL between p = (1/2, 1/2) and softmax(±2 * 0.5) by the second size
    rough = vat.smoothness(logits, images, logits(images), 2.0 * direction)
    assert float(rough) == pytest.approx(np.log(np.cosh(1.0)), rel=1e-3)


def test_the_teacher_is_a_constant_and_follows_the_student():
    student, teacher = logits_of([0.6, 0.4], [1.0, 1e-9]), logits_of([0.2, 0.8], [1.0, 1e-9])
    assert float(mean_teacher.disagreement(student, teacher)) == about((0.16 + 0.16) / 4)
    assert not np.any(jax.grad(mean_teacher.disagreement, argnums=1)(student, teacher))
    assert np.any(jax.grad(mean_teacher.disagreement)(student, teacher))
    assert [float(mean_teacher.risen(jnp.float32(at), 0.4)) for at in (0.0, 0.2, 0.4, 0.9)] == about(
        [np.exp(-5), np.exp(-1.25), 1, 1])
    assert MeanTeacher((1.0,), 0.9, 0.4).read({"a": 1}, mean_teacher.Teacher({"a": 2}, jnp.int32(3))) == {"a": 2}
    mean = {"w": jnp.array(8.0)}
    for steps, value, expected in ((1, 4.0, 6.0), (2, 3.0, 5.0), (999, 0.0, 4.95)):
        mean = mean_teacher.followed(mean, {"w": jnp.array(value)}, jnp.int32(steps), 0.99)
        assert float(mean["w"]) == about(expected)


def test_mixmatch_sharpens_guesses_and_keeps_the_nearer():
    assert np.asarray(mixmatch.sharpened(jnp.array([[0.75, 0.25]]), 0.5)) == about(np.array([[0.9, 0.1]]))
    views = jnp.stack([logits_of([0.9, 0.1]), logits_of([0.6, 0.4])])
    assert np.asarray(mixmatch.guessed(views, 0.5)) == about(np.array([[0.9, 0.1]]))
    assert float(mixmatch.brier(jnp.array([[1.0, 0.0]]), logits_of([0.7, 0.3]))) == about(0.09)
    assert np.asarray(mixmatch.nearer(jnp.array([0.2, 0.7]))) == about(np.array([0.8, 0.7]))


def test_improved_gan_by_hand():
    real, generated = jnp.log(jnp.array([[2.0, 1.0], [0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.75]]))
    found = improved_gan.real_or_generated(real, generated)  # Z = 3 and 1; 1
    assert float(found) == about(-(np.log(3 / 4) + np.log(1 / 2)) / 2 - np.log(1 / 2))
    matched = improved_gan.feature_matching(jnp.array([[1.0, 0.0], [3.0, 2.0]]), jnp.array([[0.0, 0.0]]))
    assert float(matched) == about(2.0**2 + 1.0**2)


class Constant(nn.Module):
    """The same logits for every image, so that losses can be put together by hand; its hidden layer is the mean pixel.
    """

    @nn.compact
    def __call__(self, images, train):
        logits = self.param("logits", nn.initializers.zeros, (2,))
        return jnp.tile(logits, (len(images), 1)), {"penultimate": images.mean(axis=(1, 2))}


def saying(*probabilities: float) -> dict:
    return {"params": {"logits": logits_of(list(probabilities))[0]}}


BATCH = Batch(jnp.zeros((2, 4, 4, 1)), jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.zeros((2, 3, 4, 4, 1)))


def moment(progress: float, **settings: float) -> Moment:
    return Moment({name: jnp.float32(value) for name, value in settings.items()}, jnp.float32(progress),
                  jax.random.key(0))


def test_losses_are_put_together_as_published():
    entropy = -(np.log(0.8) + np.log(0.2)) / 2

    def value(method, at, kept=(), **settings):
        loss = jax.jit(lambda kept, at: method.loss(Network(Constant()), saying(0.8, 0.2), kept, BATCH, at).value)
        return float(loss(kept, moment(at, **settings)))

    assert value(Supervised((1.0,)), 0.5, rate=1) == about(entropy)
    # predictions do not move: no roughness
    assert value(Vat((1.0,)), 0.5, size=2) == about(entropy)
    # a batch mixed with itself in another order keeps its mean target
    own = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert value(Mixup((1.0,)), 0.5, alpha=1) == about(entropy + own)
    teacher = mean_teacher.Teacher(saying(0.5, 0.5), jnp.int32(0))
    assert value(MeanTeacher((1.0,), 0.9, 0.4), 0.2, teacher, weight=10) == about(entropy + 10 * np.exp(-1.25) * 0.09)
    # with alpha near 0 the share is 1: nothing is mixed. Guesses are 0.8^2 / (0.8^2 + 0.2^2); half the ramp, half the
    # weight
    unmixed = MixMatch((1.0,), 0.5, 1e-6, 2, 0.4)
    assert value(unmixed, 0.2, weight=8) == about(entropy + 4 * (0.64 / 0.68 - 0.8) ** 2)
    gan = ImprovedGan((1.0,), Generator(1, (4, 4, 1)), 2, 1e-3)
    generating = gan.begin(Network(Constant()), saying(0.8, 0.2), BATCH.labelled, jax.random.key(0))
    total = 0.7  # logsumexp of log 0.8 + 0.7, log 0.2 + 0.7
    assert value(gan, 0.5, generating, weight=2) == about(
        entropy + 2 * (np.log1p(np.exp(-total)) + np.log1p(np.exp(total))))


METHODS = [Supervised((1.0,)), Mixup((0.5,)), Vat((1.0,)), MeanTeacher((10.0,), 0.9, 0.4),
           MixMatch((10.0,), 0.5, 0.75, 2, 0.4), ImprovedGan((0.5,), Generator(2, (12, 12, 1)), 4, 1e-3)]


class Perceptron(nn.Module):
    """One hidden layer, batch-normalised: what is read has the running statistics."""

    @nn.compact
    def __call__(self, images, train):
        normed = nn.BatchNorm(use_running_average=not train, momentum=0.8, name="norm")(
            nn.Dense(24)(images.reshape(len(images), -1)))
        hidden = nn.relu(normed)
        return nn.Dense(CLASSES)(hidden), {"penultimate": hidden}


class Run:
    """A small perceptron, 12 labels of 256 images."""

    steps = 60

    def __init__(self) -> None:
        data, self.test = squares(256, 1, seed=0), squares(200, 1, seed=1)
        labelled = np.concatenate([np.flatnonzero(data.labels == label)[:3] for label in range(CLASSES)])
        self.module = Perceptron()
        self.start = self.module.init(jax.random.key(1), jnp.zeros((2, 12, 12, 1)), train=False)
        self.pool = Pool(jnp.asarray(data.images), jnp.asarray(data.labels))
        self.rows = rows_of_steps(labelled, 256, steps=self.steps, batch=32, seed=(0,))

    def __call__(self, method, checkpoint=None):
        training = Training(method, Network(self.module), AdamAndShift(5e-3), CLASSES, self.steps, 2)
        return training.run(self.start, self.pool, self.rows, method.grid[0], jax.random.key(2),
                            checkpoint=checkpoint or Forgetful(), report=lambda done: None)

    def accuracy(self, variables) -> float:
        logits, _ = self.module.apply(variables, jnp.asarray(self.test.images, jnp.float32) / 255, train=False)
        return float(np.mean(np.asarray(logits).argmax(axis=1) == self.test.labels))


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_method_learns_from_three_labels_a_class(run, method):
    assert run.accuracy(run.start) < 0.5
    found = run(method)
    assert run.accuracy(found) > 0.7
    # running means, 0 at first, are those of the hidden layer that the weights make
    dense, images = found["params"]["Dense_0"], np.asarray(run.pool.images, np.float32).reshape(256, -1) / 255
    means = images.mean(axis=0) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    assert np.abs(means).max() > 0.3
    assert np.asarray(found["batch_stats"]["norm"]["mean"]) == pytest.approx(means, abs=0.1)


def test_the_generator_comes_to_match_the_hidden_layer():
    """The layer is the mean pixel, 0.9 on real images: generated ones, 0.5 at first, become as bright."""
    network, variables = Network(Constant()), saying(0.5, 0.5)
    method = ImprovedGan((1.0,), Generator(1, (4, 4, 1)), 2, 5e-2)
    batch = BATCH._replace(unlabelled=jnp.full((2, 16, 4, 4, 1), 0.9))
    kept = method.begin(network, variables, BATCH.labelled, jax.random.key(0))

    def brightness(kept):
        images, _ = method.generator.apply(
            kept.variables, jax.random.normal(jax.random.key(5), (64, 2)), train=True, mutable=["batch_stats"])
        return float(images.mean())

    before = brightness(kept)
    after = jax.jit(lambda kept, key: method.after(
        network, variables, kept, batch, Moment({}, jnp.float32(0), key)))
    for step in range(40):
        kept = after(kept, jax.random.key(step))
    assert abs(brightness(kept) - 0.9) < 0.05 < 0.3 < abs(before - 0.9)


def test_a_run_that_is_cut_off_ends_in_the_same_weights(run):
    method = METHODS[3]
    kept: dict = {}
    with pytest.raises(KeyboardInterrupt):
        run(method, Memory(kept, saves=1))
    assert kept["_saves"] == ["state"]
    again, whole = run(method, Memory(kept)), run(method)
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_rows_are_shuffles_of_the_labelled_and_of_all():
    rows: Rows = rows_of_steps(np.array([5, 7, 9]), 8, steps=4, batch=6, seed=(1, 2))
    assert rows.labelled.shape == rows.unlabelled.shape == (4, 6)
    assert np.sort(rows.labelled.ravel().reshape(8, 3)).tolist() == [[5, 7, 9]] * 8
    assert np.sort(rows.unlabelled.ravel().reshape(3, 8)).tolist() == [list(range(8))] * 3
    assert not np.array_equal(rows.unlabelled, rows_of_steps(
        np.array([5, 7, 9]), 8, steps=4, batch=6, seed=(1, 3)).unlabelled)
