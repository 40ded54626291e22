"""Linear classifiers fitted along a path of strengths, from the strongest penalty to the weakest.

Both minimise |W|^2 / 2 + C sum_i loss_i(W x_i + b), the intercept b free of penalty, on rows of root mean
square length 1 (`features.standardise`), with C = 100 * strength. The losses are *summed*: C is then the
prior variance of the weights, which the number of examples does not change. Measured on digits, 16 to 3,500
numbers and 100 to 3,500 labels: the best C stays within 10 to 1,000 for the logistic loss and 1 to 10 for
the squared hinge, whatever the number of labels, so the default strengths hold it well inside.

More numbers d than rows n: the optimum lies in the span of the rows (representer theorem), so the problem
is rotated into it first (X^T = Q R; R^T has n columns) and the weights are rotated back. Exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

C_PER_STRENGTH = 100.0
MOST_STEPS = 3000
LOGISTIC_TOLERANCE = 1e-5
"""Largest entry of the gradient of the mean loss at the end. scikit-learn's default, 1e-4, accepts the
optimum of one strength as that of the next: the path would stand still at its weak end."""
SQUARED_HINGE_TOLERANCE = 1e-5
"""Largest entry of the preconditioned gradient at the end, relative to that of W = 0."""
INSIDE_MARGIN = 0.3
"""Guess at the share of examples that a squared hinge bends at; only the speed depends on it."""


class LinearClassifier(NamedTuple):
    """x -> the class with the largest weights . x + offset."""

    strength: float
    classes: Integer[np.ndarray, " c"]
    weights: Float[np.ndarray, "c d"]
    offsets: Float[np.ndarray, " c"]
    converged: bool

    def predict(self, rows: Float[np.ndarray, "m d"]) -> Integer[np.ndarray, " m"]:
        return self.classes[np.argmax(rows @ self.weights.T + self.offsets, axis=1)]


def logistic_path(rows: Float[np.ndarray, "n d"], labels: Integer[np.ndarray, " n"],
                  strengths: Sequence[float]) -> Iterator[LinearClassifier]:
    """Multinomial logistic regression at each strength, ascending, each started from the one before.

    scikit-learn's LogisticRegression (L-BFGS). Cost: 2 n d c multiply-adds a step, some 10 to 300 steps a
    strength. One BLAS thread: the products are small, and threads that wait for one another on a busy
    machine were measured 50 times slower.
    """
    _check_classes(labels)
    rows, basis = _in_row_space(rows)
    model = LogisticRegression(tol=LOGISTIC_TOLERANCE, max_iter=MOST_STEPS, warm_start=True)
    for strength in sorted(strengths):
        model.set_params(C=C_PER_STRENGTH * strength)
        with warnings.catch_warnings(record=True) as caught, threadpool_limits(limits=1):
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(rows, labels)
        converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        weights, offsets = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row of weights: the second class's log odds
            weights, offsets = np.concatenate([-weights, weights]), np.concatenate([-offsets, offsets])
        yield LinearClassifier(strength, model.classes_, _rotated_back(weights, basis), offsets.copy(),
                               converged)


def squared_hinge_path(rows: Float[np.ndarray, "n d"], labels: Integer[np.ndarray, " n"],
                       strengths: Sequence[float]) -> Iterator[LinearClassifier]:
    """One-vs-rest classifiers of the loss max(0, 1 - y f)^2, y = +-1, at each strength, ascending.

    The probe of Zhai et al., "Adversarial Fisher Vectors for Unsupervised Representation Learning", 2019.
    The optimum is that of scikit-learn's LinearSVC (a test compares them), which can neither start from the
    neighbouring strength nor use BLAS: 50 s of processor time for 6 strengths of 3,500 rows of 3,500
    numbers, where this takes 7. All classes descend together by L-BFGS in the coordinates u = W / scale,
    where scale^2 is the inverse of the Hessian's diagonal with `INSIDE_MARGIN` of the examples bent.
    """
    _check_classes(labels)
    rows, basis = _in_row_space(rows)
    if basis is None and 2 * rows.shape[1] <= len(rows):
        # along the principal axes the Hessian is closest to its diagonal: two to three times fewer steps
        with threadpool_limits(limits=1):
            _, basis = np.linalg.eigh(rows.T @ rows)
            rows = rows @ basis
    classes = np.unique(labels)
    targets = np.where(labels[:, None] == classes, 1.0, -1.0)
    columns = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)  # the last one is the intercept's
    curvature = 2 * INSIDE_MARGIN * np.einsum("nd,nd->d", columns, columns)
    weights = np.zeros((len(classes), columns.shape[1]))
    for strength in sorted(strengths):
        c = C_PER_STRENGTH * strength
        scale = 1 / np.sqrt(_penalised(np.ones_like(curvature)) + c * curvature)
        arguments = (scale, columns, targets, c)
        with threadpool_limits(limits=1):
            _, gradient = _squared_hinge(np.zeros(weights.size), *arguments)
            found = minimize(_squared_hinge, (weights / scale).ravel(), arguments, jac=True,
                             method="L-BFGS-B", options={
                                 "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "maxcor": 20, "ftol": 0.0,
                                 "gtol": SQUARED_HINGE_TOLERANCE * np.abs(gradient).max()})
        weights = found.x.reshape(weights.shape) * scale
        yield LinearClassifier(strength, classes, _rotated_back(weights[:, :-1], basis), weights[:, -1],
                               bool(found.success))


def _squared_hinge(scaled: Float[np.ndarray, " m"], scale: Float[np.ndarray, " d"],
                   columns: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "n c"],
                   c: float) -> tuple[float, Float[np.ndarray, " m"]]:
    """|W|^2 / 2 + c sum max(0, 1 - y f)^2 of all classes, and its gradient, at W = scaled * scale."""
    weights = scaled.reshape(targets.shape[1], -1) * scale
    slack = np.maximum(0, 1 - targets * (columns @ weights.T))
    penalised = _penalised(weights)
    gradient = penalised - 2 * c * (slack * targets).T @ columns
    return float(np.vdot(penalised, weights) / 2 + c * np.vdot(slack, slack)), (gradient * scale).ravel()


def _penalised(weights: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """The weights with the intercept's, the last, set to zero."""
    return np.concatenate([weights[..., :-1], np.zeros_like(weights[..., -1:])], axis=-1)


def _in_row_space(
    rows: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "d r"] | None]:
    """The rows in an orthonormal basis of n vectors that holds them, and it; as they are (None) if d <= n."""
    if rows.shape[1] <= len(rows):
        return np.ascontiguousarray(rows), None
    with threadpool_limits(limits=1):
        basis, coordinates = np.linalg.qr(rows.T)
    return np.ascontiguousarray(coordinates.T), basis


def _rotated_back(
    weights: Float[np.ndarray, "c r"], basis: Float[np.ndarray, "d r"] | None,
) -> Float[np.ndarray, "c d"]:
    return weights.copy() if basis is None else weights @ basis.T


def _check_classes(labels: Integer[np.ndarray, " n"]) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(f"all {len(labels)} training labels are {present.tolist()}; a probe needs 2 classes")
