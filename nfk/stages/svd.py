"""`svd@F`: the leading singular values and vectors of the matrix of Fisher vectors."""

from __future__ import annotations

import numpy as np

from nfk import shared_store, store
from nfk.evaluation.figures.spectrum import singular_values
from nfk.evaluation.figures.style import save
from nfk.fisher import strategies
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.group import Alone, Group, from_first, share
from nfk.linalg.rows import block_count
from nfk.params import Params
from nfk.progress import progress, told
from nfk.stages import images, network, workspace
from nfk.stages.outcome import Outcome

_WHEN_TO_STOP = {"passes", "tolerance", "accept_unconverged", "memory_gib"}
"""Settings that change no finished pass: scratch made under others of them is still good."""


class NotConverged(ValueError):
    """A kept mode misses the asked tolerance."""


def run(params: Params, family: str, group: Group | None = None) -> Outcome:
    group = Alone() if group is None else group
    data, net = images.load(params), network.load(params, family)
    statistics, statistics_digest = network.load_statistics(params, net, data)
    settings, scores = params.svd, net.scores
    examples = data.examples("train", settings.examples)
    scores.probe(examples, settings.block)
    vectors = FisherVectors(scores, examples, statistics, damping=settings.damping,
                            unit_rows=settings.unit_rows, block_rows=settings.block)
    inputs = {"data": data.digest, "model": net.digest, "statistics": statistics_digest}
    scratch = workspace.scratch("svd", family, {
        "params": settings.model_dump(exclude=_WHEN_TO_STOP), "seed": params.seed, **inputs}, group)
    plan = _plan(params, vectors, scratch, group)
    with progress(f"svd@{family} ({plan})") as report:
        factors = strategies.decompose(
            vectors, plan, rank=settings.rank, key=network.key(params, "svd"),
            oversampling=settings.oversampling, passes=settings.passes, tolerance=settings.tolerance,
            memory_bytes=int(settings.memory_gib * 2**30), checkpoint=scratch, group=group, progress=report)
    worst = float(np.max(factors.residuals))
    if worst > settings.tolerance and not settings.accept_unconverged:
        mode = int(np.argmax(factors.residuals > settings.tolerance)) + 1
        raise NotConverged(
            f"svd@{family}: residual {worst:.2g} exceeds svd.tolerance={settings.tolerance:g} from mode {mode} "
            f"of {len(factors.residuals)} on; raise svd.passes (the {factors.passes} made are kept), or set "
            f"svd.accept_unconverged: true")
    path = workspace.factors_store(family)
    explained, orthogonality = factors.explained_variance, factors.orthogonality
    own = share(block_count(vectors), group)
    with shared_store.write(path, inputs=inputs, group=group) as writer:
        writer.put("singular_values", factors.singular_values)
        writer.put_rows("left", np.asarray(factors.left), start=own.start * vectors.block_rows,
                        total=vectors.shape[0], share=-(-block_count(vectors) // group.size) * vectors.block_rows)
        writer.put_by_shards("right", factors.right)
        writer.put("residuals", factors.residuals)
        writer.put("eigenvalue_errors", factors.errors)
        writer.put("explained_variance", explained)
        writer.attributes.update(
            strategy=plan, passes=factors.passes, squared_norm=factors.squared_norm,
            orthogonality=orthogonality, damping=settings.damping, unit_rows=settings.unit_rows,
            examples=vectors.shape[0], made_with=network.made_with(params, "svd"))
    if group.index == 0:
        save(singular_values(factors.singular_values, factors.residuals, settings.tolerance),
             workspace.spectrum_figure(family))
    scratch.clear()
    rank = len(factors.singular_values)
    short = f" (the matrix has no more than {rank} modes)" if rank < settings.rank else ""
    return Outcome(
        f"{rank} modes{short} of {vectors.shape[0]:,} x {vectors.shape[1]:,}, {explained[-1]:.1%} of the variance, "
        f"largest residual {worst:.1e}, {factors.passes} passes -> {path}",
        params={"svd": settings.model_dump()} | {"svd.chosen": plan},
        metrics={"rank": rank, "passes": factors.passes, "explained_variance": float(explained[-1]),
                 "largest_residual": worst, "largest_eigenvalue_error": float(np.max(factors.errors)),
                 "orthogonality": orthogonality},
        series={"singular_value": factors.singular_values.tolist(),
                "explained_variance_at": explained.tolist(), "residual": factors.residuals.tolist(),
                "eigenvalue_error": factors.errors.tolist()},
        figures=[workspace.spectrum_figure(family)],
        digests={**inputs, "factors": store.read_marker(path)["digest"]})


def _plan(params: Params, vectors: FisherVectors, scratch: store.Scratch, group: Group) -> strategies.Strategy:
    """The strategy, chosen once, for a group by process 0: a resumed run keeps to it, since another would give other
    bits."""
    chosen = _chosen(params, vectors, scratch, group) if group.index == 0 else strategies.STRATEGIES[0]
    return strategies.STRATEGIES[int(from_first(group, np.array([strategies.STRATEGIES.index(chosen)]))[0])]


def _chosen(params: Params, vectors: FisherVectors, scratch: store.Scratch, group: Group) -> strategies.Strategy:
    if (kept := scratch.load("plan")) is not None:
        return strategies.STRATEGIES[int(kept["strategy"][0])]
    settings = params.svd
    # a long run says beforehand what it will cost, which takes a probe whatever the strategy
    chosen = strategies.choose(estimate(params, vectors, group), settings.strategy, int(settings.memory_gib * 2**30))
    scratch.save("plan", {"strategy": np.array([strategies.STRATEGIES.index(chosen.strategy)])})
    told("svd", describe(chosen))
    return chosen.strategy


def estimate(params: Params, vectors: FisherVectors, group: Group | None = None) -> list[strategies.Plan]:
    """What each strategy would cost here, from a timed probe; of a group, those it can share, for one process."""
    group = Alone() if group is None else group
    settings = params.svd
    width = settings.rank + settings.oversampling
    machine = strategies.probe_machine(vectors, min(width, *vectors.shape))
    n, p = vectors.shape
    costs = strategies.plans((-(-n // group.size), p), machine, rank=settings.rank,
                             oversampling=settings.oversampling, passes=settings.passes, block_rows=settings.block,
                             memory_bytes=int(settings.memory_gib * 2**30),
                             whitening_bytes=vectors.whitening_bytes)
    return costs if group.size == 1 else [plan for plan in costs if plan.strategy in strategies.BY_GROUPS]


def describe(plan: strategies.Plan) -> str:
    gradients = "gradient" if plan.gradient_passes == 1 else "gradients"
    seconds = f"about {plan.seconds:.0f} s" if plan.seconds >= 0.5 else "under 1 s"
    return (f"{plan.strategy}: {plan.gradient_passes:.3g} {gradients} an example, {plan.product_flops:.2g} flop, "
            f"{plan.bytes / 2**30:.2f} GiB, {seconds}")
