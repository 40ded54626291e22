"""The training loop with steps that only count, and the laws of its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfk.training import (
    TrainingError,
    at_least,
    at_most,
    averaged,
    descend,
    epoch_batches,
    follow,
    require_images,
    run_epochs,
    unit_range,
)
from tests.models.small_networks import Kept


def pictures(count):
    """Image i is a single pixel of value i."""
    return np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(count, dtype=np.int32)


def counting(terms):
    """A step whose state is the list of batches met; `terms(steps before)` are its terms."""
    def step(state, images, labels, key):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        return [*state, tuple(labels.tolist())], {name: jnp.float32(v) for name, v in terms(len(state)).items()}
    return step


def run(step, count=10, batch=3, epochs=4, seed=0, **settings):
    return run_epochs(step, [], *pictures(count), batch=batch, epochs=epochs, key=jax.random.key(seed), **settings)


def test_an_epoch_is_a_permutation_in_whole_batches():
    batches = epoch_batches(jax.random.key(0), 11, 3)
    assert batches.shape == (3, 3)
    assert len(set(batches.ravel())) == 9 and batches.min() >= 0 and batches.max() < 11
    assert set(epoch_batches(jax.random.key(0), 12, 3).ravel()) == set(range(12))


def test_epochs_differ_and_follow_the_key():
    step = counting(lambda _: {"loss": 0.0})
    first, again, other = run(step), run(step), run(step, seed=1)
    assert first == again
    assert first[0] != other[0]
    epochs = [first[0][i : i + 3] for i in range(0, 12, 3)]
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_history_holds_epoch_means_and_validation():
    state, history = run(counting(lambda done: {"loss": done}), validate=lambda state: {"seen": float(len(state))})
    assert len(state) == 12
    assert history == {"loss": [1.0, 4.0, 7.0, 10.0], "seen": [3.0, 6.0, 9.0, 12.0]}


def test_a_run_that_broke_off_goes_on_after_its_last_whole_epoch_to_the_same_end():
    steps, kept = [], Kept()

    def step(state, images, labels, key):
        steps.append(len(steps))
        if len(steps) == 8:
            raise KeyboardInterrupt
        total = state["total"] + jax.random.uniform(key) * jnp.float32(labels.sum())
        return {"total": total, "count": state["count"] + 1}, {"loss": total}

    def go(checkpoint):
        start = {"total": jnp.float32(0), "count": jnp.int32(0)}
        return run_epochs(step, start, *pictures(9), batch=3, epochs=4, key=jax.random.key(0),
                          checkpoint=checkpoint, validate=lambda state: {"count": float(state["count"])})

    with pytest.raises(KeyboardInterrupt):
        go(kept)
    resumed, history = go(kept)
    assert len(steps) == 8 + 6
    whole, whole_history = go(None)
    assert resumed == whole and history == whole_history
    assert history["count"] == [3.0, 6.0, 9.0, 12.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_stops_the_training_naming_the_step(bad):
    seen = []

    def terms(done):
        seen.append(done)
        return {"loss": 0.0, "gap": bad if done == 4 else 1.0}

    with pytest.raises(TrainingError, match=rf"gap={bad} at step 5 \(epoch 2 of 4\): .* lower learning_rate"):
        run(counting(terms))
    assert seen == list(range(6))


def test_progress_counts_examples_to_the_end_and_is_throttled():
    reports = []
    run(counting(lambda done: {"some_loss": done}), count=50, batch=1, epochs=2,
        progress=lambda *report: reports.append(report))
    assert reports[0] == (1, 100, "epoch 1 of 2: some loss 0")
    assert reports[-1] == (100, 100, "epoch 2 of 2: some loss 99")
    assert len(reports) < 20


def test_descend_is_a_step_of_gradient_descent():
    optimiser = optax.sgd(0.5)
    params = {"w": jnp.array([1.0, 2.0])}
    after, _ = descend(optimiser, {"w": jnp.array([2.0, -2.0])}, params, optimiser.init(params))
    np.testing.assert_array_equal(after["w"], [0.0, 3.0])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_moving_average_weighs_by_age_and_sums_to_one(decay):
    values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    average = optax.ema(decay).init(jnp.zeros(3))
    for value in values:
        average = follow(average, jnp.asarray(value), decay)
    weights = decay ** np.arange(6)[::-1] if decay else np.eye(6)[5]
    np.testing.assert_allclose(averaged(average, decay), weights @ values / weights.sum(), rtol=1e-5)


def test_unit_range_spans_zero_to_one():
    scaled = unit_range(jnp.array([0, 51, 255], jnp.uint8).reshape(3, 1, 1))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled.ravel(), [0, 0.2, 1], rtol=1e-6)


def test_bounds_are_met_when_equal():
    assert at_least("a", 1.0, 1.0, "").passed and at_most("a", 1.0, 1.0, "").passed
    assert not at_least("a", 0.9, 1.0, "").passed and not at_most("a", 1.1, 1.0, "").passed
    assert not at_least("a", np.nan, 1.0, "").passed and not at_most("a", np.nan, 1.0, "").passed


@pytest.mark.parametrize("shape, labels, message", [
    ((5, 2, 2, 1), [0] * 5, r"images of shape \(2, 2, 1\) do not fit a network made for \(3, 3, 1\)"),
    ((5, 3, 3, 1), [0] * 5, r"batch=8 exceeds the 5 training images; lower it in params.yaml"),
    ((9, 3, 3, 1), [0] * 8 + [4], r"labels span 0 to 4, outside 0 to 3"),
    ((9, 3, 3, 1), [0] * 8 + [-1], r"labels span -1 to 0, outside 0 to 3"),
    ((9, 3, 3, 1), [0] * 9, r"the first 9 training images are the same: there is nothing to learn; check data.source"),
])
def test_images_that_do_not_fit_are_refused(shape, labels, message):
    with pytest.raises(TrainingError, match=message):
        require_images(np.zeros(shape, np.uint8), np.array(labels, np.int32), (3, 3, 1), 4, 8)
