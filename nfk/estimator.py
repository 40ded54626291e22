"""The front door of the library: a scikit-learn-style estimator on any JAX function."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from nfk import store
from nfk.fisher import strategies
from nfk.fisher.embedding import Scaling, embed, held_or_read, scale
from nfk.fisher.examples import CheckedExamples, Given, checked
from nfk.fisher.parameters import parameter_index
from nfk.fisher.scores import Examples, LogDensity, Outputs, Scores, output_count
from nfk.fisher.statistics import FisherStatistics, fisher_statistics, identity_statistics
from nfk.fisher.theta import Theta, choose
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.factors import Factors
from nfk.linalg.krylov import Interrupted
from nfk.linalg.rows import Progress, silent

PyTree = Any
Kernel = Literal["fisher", "ntk"]
Whitened = Literal["diagonal", "kronecker"]


class NeuralFisherKernel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Compact vectors from a trained network: e(x) = W^T V_x, with V ~ U diag(s) W^T the truncated SVD of the
    centred, whitened gradients of one scalar; or of the plain gradients of one or more (`kernel="ntk"`).

    log_density: s(params, x, key) -> scalar for one example x without a batch axis; any JAX function, params any
        pytree. Randomness inside s must come from `key`, which is one for all examples.
    rank: k, the numbers each example gets.
    damping: added to the diagonal Fisher information, or to a factor's eigenvalues, relative to their mean: no unit.
    whitening: "diagonal", each number by itself, or "kronecker": each array of params as a whole, by the factors of its
        scores' covariance along its last axis and along the others (`nfk.fisher.kronecker`); damping is then relative
        to the mean of a factor's eigenvalues, and 0.1 a good one.
    unit_rows: each V_x divided by its length, so that the kernel is a cosine.
    strategy: "auto" (a timed probe and `memory_gib` decide) or a name of `nfk.fisher.strategies`.
    oversampling: directions carried along beside the k, not kept: the last modes converge by them.
    passes, tolerance: most passes over the data, and the residual at which fewer are enough.
    scaling: of embeddings, "none", "whitened" or "unit": see `nfk.fisher.embedding.scale`.
    block: gradients computed at once; a few times block p numbers are in memory.
    memory_gib: what a strategy may hold, on each device and the host together.
    include, exclude: regular expressions for the whole "/"-joined path of a leaf of params. Theta is the leaves that
        match any of include (None: all) and none of exclude; the others are constants and cost nothing. Leaves that
        are no floating-point arrays are never in theta.
    kernel: "fisher", or "ntk": the empirical neural tangent kernel, Z = 0, I = 1 and no damping, where s may be any
        function f, a scalar or, with `outputs`, a vector of m numbers. outputs="all": V has n m rows, one for each
        example and output (x_0 f_0, x_0 f_1, ...), and embeddings are (n, m, k). outputs="trace": K(x, z) =
        sum_j <grad f_j(x), grad f_j(z)>, exactly: V has n rows of m p numbers, embeddings are (n, k), right_ takes
        m p k numbers. Either costs one forward and m backward passes an example, and scores block / m examples at
        once, which holds a few times block p numbers; "jvp" does neither.

    After `fit` it has:

    singular_values_: (k,) s, float64, descending.
    explained_variance_ratio_: (k,) sum of the first s^2 over ||V||_F^2, cumulative.
    residuals_: (k,) ||V^T u_i - s_i w_i|| / s_1.
    eigenvalue_errors_: (k,) estimated relative error of each s^2.
    left_, right_: (n, k) U and (p, k) W; where it is too large for memory_gib ("panels"; loaded, or spread over
        devices: twice), right_ reads rows of a file or of the devices, right_[start:stop].
    mean_score_, fisher_diagonal_: (p,) Z and I, float64.
    fisher_sides_: Kronecker factors, end to end, or None.
    strategy_: the one chosen.
    n_features_out_: k or, where V has lower rank, fewer.
    example_shape_, n_features_in_: an example's shape, and its numbers whatever its axes.

    In a scikit-learn pipeline images may have any axes after the first. A search over `rank` fits anew for every rank,
    though the vectors of a smaller one are, to the tolerance, the leading columns of those of a larger: where no other
    option changes, fit the largest once and cut its columns.

    Source: Zhang, Zhai, Littwin, Susskind, ICLR 2022.
    """

    def __init__(
        self, log_density: LogDensity, params: PyTree, *, rank: int = 128, damping: float = 1e-3,
        whitening: Whitened = "diagonal", unit_rows: bool = False, strategy: str = "auto",
        key: Key[Array, ""] | None = None, oversampling: int = 16, passes: int = 10,
        tolerance: float = 5e-4, scaling: Scaling = "none", block: int = 256, memory_gib: float = 4.0,
        include: Sequence[str] | None = None, exclude: Sequence[str] = (), kernel: Kernel = "fisher",
        outputs: Outputs | None = None, progress: Progress = silent,
    ) -> None:
        self.log_density = log_density
        self.params = params
        self.rank = rank
        self.damping = damping
        self.whitening = whitening
        self.unit_rows = unit_rows
        self.strategy = strategy
        self.key = key
        self.oversampling = oversampling
        self.passes = passes
        self.tolerance = tolerance
        self.scaling = scaling
        self.block = block
        self.memory_gib = memory_gib
        self.include = include
        self.exclude = exclude
        self.kernel = kernel
        self.outputs = outputs
        self.progress = progress

    def fit(self, images: Given, y: Any = None, *, model_samples: Given | None = None) -> NeuralFisherKernel:
        """Statistics over `model_samples` (None: over `images`, the empirical choice), then the SVD. Labels are not
        looked at.

        Streams both; cost and memory are those of the strategy (`nfk.fisher.strategies`). Raises ValueError for
        examples that are no finite numbers or of several shapes, ScoreError for scores that are not finite or do not
        repeat, RankError for a rank V cannot have, MemoryBudgetError, ThetaError for a pattern that matches no
        parameter.
        """
        images = self._examples(images, reset=True)
        if model_samples is not None:
            model_samples = self._like_the_fitted(checked(model_samples, "model_samples"))
        self.n_outputs_ = self._output_count(images)
        scores = self._scores()
        scores.probe(images, self._block)
        if self.kernel == "ntk":
            if model_samples is not None:
                raise ValueError("model_samples are for Fisher statistics, and kernel='ntk' has none; leave them out")
            statistics = identity_statistics(scores.size)
        else:
            statistics = fisher_statistics(
                scores, images if model_samples is None else model_samples, block=self.block,
                kronecker=self.whitening == "kronecker", progress=self.progress)
        vectors = self._vectors(scores, images, statistics)
        memory = self._memory_bytes
        self.strategy_ = strategies.plan(
            vectors, self.strategy, rank=self.rank, oversampling=self.oversampling, passes=self.passes,
            memory_bytes=memory).strategy
        try:
            factors = strategies.decompose(
                vectors, self.strategy_, rank=self.rank, key=scores.key, oversampling=self.oversampling,
                passes=self.passes, tolerance=self.tolerance, memory_bytes=memory, progress=self.progress)
        except Interrupted as stopped:
            factors = stopped.factors()
            warnings.warn(f"interrupted; kept what {factors.passes} whole passes gave", ConvergenceWarning,
                          stacklevel=2)
        self._keep(statistics, factors, vectors.shape[0])
        self.left_ = factors.left
        if (worst := float(np.max(factors.residuals))) > self.tolerance:
            warnings.warn(f"residual {worst:.2g} exceeds tolerance={self.tolerance:g} from mode "
                          f"{int(np.argmax(factors.residuals > self.tolerance)) + 1} of {len(factors.residuals)} on; "
                          f"raise passes={self.passes} or lower rank", ConvergenceWarning, stacklevel=2)
        return self

    def transform(self, images: Given) -> Float[np.ndarray, "m *outputs k"]:
        """e(x) for each of m images: (m, k), or (m, outputs, k) for outputs="all"; of the precision of params.

        Cost: one gradient an image and output, and 2 m p k flops. Raises ValueError for images of another shape than
        the fitted ones, ScoreError for scores that are not finite.
        """
        check_is_fitted(self, "singular_values_")
        images = self._examples(images, reset=False)
        store.check_unchanged(self.right_)
        vectors = self._vectors(self._scores(), images, self._statistics)
        rows = embed(vectors, self.right_, memory_bytes=self._memory_bytes - vectors.whitening_bytes,
                     progress=self.progress)
        return self._scaled(rows)

    def fit_transform(self, images: Given, y: Any = None, **options: Any) -> Float[np.ndarray, "n *m k"]:
        """`fit`, then U diag(s), (n, k): the fitted images' embeddings need no further pass."""
        self.fit(images, y, **options)
        return self._scaled(self.left_ * self.singular_values_.astype(self.left_.dtype)[None, :])

    def save(self, path: Path | str) -> None:
        """Write factors and statistics as one checksummed store; the function and its parameters are not saved."""
        check_is_fitted(self, "singular_values_")
        with store.write(path, inputs={"params": self._params_digest()}) as writer:
            writer.put("key", np.asarray(jax.random.key_data(self._scores().key)))
            writer.put("singular_values", self.singular_values_)
            writer.put("explained_variance", self.explained_variance_ratio_)
            writer.put("residuals", self.residuals_)
            writer.put("eigenvalue_errors", self.eigenvalue_errors_)
            for name, values in self._statistics.arrays().items():
                writer.put(name, values)
            writer.put_by_shards("right", self.right_)
            writer.attributes.update(rank=self.rank, damping=self.damping, whitening=self.whitening,
                                     unit_rows=self.unit_rows, scaling=self.scaling, fitted=self.fitted_,
                                     strategy=self.strategy_, kernel=self.kernel, outputs=self.outputs,
                                     n_outputs=self.n_outputs_, example_shape=list(self.example_shape_),
                                     **self._choice())

    @classmethod
    def load(cls, path: Path | str, log_density: LogDensity, params: PyTree, **options: Any) -> NeuralFisherKernel:
        """What `save` wrote, its key too, for the same function and parameters; StoreError if those are others."""
        found = store.read(path)
        kept = found.attributes
        if missing := sorted(({"key", "right", "singular_values", "explained_variance"} - found.arrays.keys())
                             | ({"rank", "damping", "fitted", "example_shape"} - kept.keys())):
            raise store.StoreError(f"{path}: holds no kernel that was saved: it has no {missing[0]}")
        settings = {name: kept[name] for name in (
            "rank", "damping", "whitening", "unit_rows", "scaling", "include", "exclude", "kernel", "outputs")
            if name in kept}  # older ones know no other whitening, and no unit rows
        key = jax.random.wrap_key_data(jnp.asarray(found["key"][:]))
        loaded = cls(log_density, params, key=key, **settings, **options)
        found.expect(params=loaded._params_digest())
        loaded.singular_values_ = found["singular_values"][:]
        loaded.explained_variance_ratio_ = found["explained_variance"][:]
        loaded.residuals_ = found["residuals"][:]
        loaded.eigenvalue_errors_ = found["eigenvalue_errors"][:]
        loaded._keep_statistics(FisherStatistics.of_arrays(found))
        loaded.right_ = held_or_read(found["right"], loaded._memory_bytes)
        loaded.fitted_, loaded.strategy_, loaded.n_outputs_ = kept["fitted"], kept["strategy"], kept["n_outputs"]
        loaded.n_features_out_ = len(loaded.singular_values_)
        loaded.example_shape_ = tuple(kept["example_shape"])
        loaded.n_features_in_ = math.prod(loaded.example_shape_)
        return loaded

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []  # embeddings have the dtype of params, whatever the images'
        return tags

    @property
    def _n_features_out(self) -> int:
        """What scikit-learn names the columns by."""
        return self.n_features_out_

    def _examples(self, images: Given, *, reset: bool) -> CheckedExamples:
        """The images, of which `reset` keeps the shape; without it they must have that of the fitted ones."""
        examples = checked(images)
        validate_data(self, images, reset=reset, skip_check_array=True, ensure_2d=False)  # a data frame's columns
        if reset:
            self.example_shape_ = examples.shape[1:]
            self.n_features_in_ = math.prod(self.example_shape_)
        return self._like_the_fitted(examples)

    def _like_the_fitted(self, examples: CheckedExamples) -> CheckedExamples:
        if (shape := examples.shape[1:]) != self.example_shape_:
            raise ValueError(f"X has {math.prod(shape)} features, but NeuralFisherKernel is expecting "
                             f"{self.n_features_in_} features as input: examples of shape {shape} beside fitted ones "
                             f"of {self.example_shape_}; give both the same shape")
        return examples

    def _scores(self) -> Scores:
        """The scores, compiled once for this function, these parameters, this choice of them and this key."""
        made_of = (self.log_density, self.params, self.key, self.include, self.exclude, self.outputs, self.n_outputs_)
        kept = getattr(self, "_compiled", None)
        if kept is None or any(a is not b for a, b in zip(kept[0], made_of, strict=True)):
            theta = self._theta()
            kept = self._compiled = (made_of, Scores(theta.log_density, theta.params, self.key, outputs=self.outputs,
                                                     count=self.n_outputs_))
        return kept[1]

    def _output_count(self, images: Examples) -> int:
        """m, 1 for a scalar."""
        for name, value, allowed in (("kernel", self.kernel, get_args(Kernel)),
                                     ("whitening", self.whitening, get_args(Whitened)),
                                     ("outputs", self.outputs, (None, *get_args(Outputs)))):
            if value not in allowed:  # what is not checked here would be another kernel, in silence
                raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
        if self.kernel == "ntk" and self.whitening != "diagonal":
            raise ValueError(f"whitening={self.whitening!r} goes with kernel='fisher'; kernel='ntk' whitens nothing: "
                             "leave it out")
        if self.kernel == "ntk":
            return output_count(self.log_density, self.params, images[0:1][0], self.key, self.outputs)
        if self.outputs is not None:
            raise ValueError(f"outputs={self.outputs!r} goes with kernel='ntk'; kernel={self.kernel!r} is of a scalar")
        return 1

    @property
    def _memory_bytes(self) -> int:
        return int(self.memory_gib * 2**30)

    @property
    def _block(self) -> int:
        """Examples scored at once: `block` gradients."""
        return max(1, self.block // self.n_outputs_)

    def _theta(self) -> Theta:
        return choose(self.log_density, self.params, self.include, self.exclude)

    def _choice(self) -> dict[str, Any]:
        """include and exclude as JSON holds them."""
        return {"include": None if self.include is None else list(self.include), "exclude": list(self.exclude)}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items()
                if name not in ("_compiled", "_whitening")}

    def _vectors(self, scores: Scores, images: Examples, statistics: FisherStatistics) -> FisherVectors:
        damping = 0.0 if self.kernel == "ntk" else self.damping
        made_of = (statistics.sides, statistics.mean_score, damping, self.unit_rows)
        kept = getattr(self, "_whitening", None)
        if kept is None or any(a is not b for a, b in zip(kept[0], made_of, strict=True)):
            whitening = statistics.whitening(scores.index, damping=damping, unit_rows=self.unit_rows)
            kept = self._whitening = (made_of, whitening)
        return FisherVectors(scores, images, statistics, whitening=kept[1], block_rows=self._block)

    @property
    def _statistics(self) -> FisherStatistics:
        return FisherStatistics(self.mean_score_, self.fisher_diagonal_, 0, self.fisher_sides_)

    def _keep_statistics(self, found: FisherStatistics) -> None:
        self.mean_score_, self.fisher_diagonal_, self.fisher_sides_ = found.mean_score, found.diagonal, found.sides

    def _keep(self, statistics: FisherStatistics, factors: Factors, fitted: int) -> None:
        self._keep_statistics(statistics)
        self.singular_values_, right = factors.singular_values, factors.right
        self.right_ = right if isinstance(right, jax.Array) else held_or_read(right, self._memory_bytes)
        self.explained_variance_ratio_, self.residuals_ = factors.explained_variance, factors.residuals
        self.eigenvalue_errors_ = factors.errors
        self.fitted_, self.n_features_out_ = fitted, len(factors.singular_values)

    def _scaled(self, rows: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "n *m k"]:
        scaled = scale(rows, self.scaling, singular_values=self.singular_values_, fitted=self.fitted_)
        return scaled.reshape(-1, self.n_outputs_, rows.shape[1]) if self.outputs == "all" else scaled

    def _params_digest(self) -> str:
        index = [list(entry) for entry in parameter_index(self._theta().params)]
        arrays: list[Any] = [np.ascontiguousarray(_plain(leaf)) for leaf in jax.tree.leaves(self.params)]
        bits = [hashlib.sha256(array).hexdigest() for array in arrays]
        return store.json_digest([index, bits])


def _plain(leaf: Any) -> Any:
    """A leaf as NumPy takes it: a random key as its words."""
    return jax.random.key_data(leaf) if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else leaf
