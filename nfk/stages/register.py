"""A family's embedder and embeddings into the registry, as a pair that leads back to data, weights and code."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nfk import embedder, registry, store, tracking
from nfk.models.custom import source_tree
from nfk.params import PARAMS_FILE, Params, ThetaParams
from nfk.registry.registration import Content, register
from nfk.stages import images, network, workspace
from nfk.stages.images import SPLITS
from nfk.stages.labelled import is_known
from nfk.stages.registered import code_tags
from nfk.workspace_lock import stage_lock

_EXAMPLES = 2
_SHARE = "explained_variance"  # what is judged where the images have no classes


def run(params: Params, family: str) -> tuple[registry.Entry, registry.Entry]:
    """Register what the workspace holds of `family`; the two versions made, called `candidate`.

    Everything is held against the digests it was made from first, so that a pair never mixes two runs. StoreError or
    RegistryError otherwise; WorkspaceBusy while another process registers this family here, or both would make a pair.
    """
    params.family(family)
    with stage_lock(workspace.LOCKS / f"register@{family}.lock"):
        return _run(params, family)


def _run(params: Params, family: str) -> tuple[registry.Entry, registry.Entry]:
    data, net = images.load(params), network.load(params, family)
    made_from = {"data": data.digest, "model": net.digest}
    statistics = network.open_statistics(params, net, data)
    factors = network.load_factors(params, family, **made_from, statistics=statistics.digest)
    inputs = {**made_from, "statistics": statistics.digest, "factors": factors.digest}
    path = workspace.embeddings_store(family)
    embeddings = store.read(path).expect(**inputs)
    rank = embeddings["test"].shape[1]
    metrics = _metrics(family, rank)
    gate = f"nfk-{rank}.{params.registry.metric}.validation_accuracy" if is_known(data) else _SHARE
    if gate not in metrics:
        raise registry.RegistryError(
            f"evaluation/{family}/metrics.json has no {gate}; add {rank}, the rank, to evaluate.ranks in params.yaml")
    lineage = {
        **tracking.provenance(), **_hashes(family), "device": embedder.device(),
        **{f"digest.{name}": digest for name, digest in inputs.items()}, "digest.embeddings": embeddings.digest,
        "gate.metric": gate, "gate.value": repr(metrics[gate]), "family": family, "rank": str(rank),
        "image_shape": json.dumps(list(data.shape)), "data.source": data.source,
    }
    with TemporaryDirectory(prefix="nfk-register-") as scratch, registry.connect(params.tracking) as client:
        folder = Path(scratch) / "embedder"
        embedder.write(folder, model=workspace.model_folder(family), statistics=statistics, factors=factors,
                       scaling=embeddings.attributes["scaling"],
                       theta=params.theta.get(family, ThetaParams()).model_dump(mode="json"), inputs=inputs)
        code = (source_tree(net.card["model"]),) if ":" in net.card["model"] else ()
        lineage |= {"digest.embedder": embedder.digest(folder)} | code_tags(code)
        return register(client, Content(
            family=family, embedder=folder, embeddings=path,
            examples=np.asarray(data.examples("train")[:_EXAMPLES]), rank=rank, metrics=metrics, tags=lineage,
            embeddings_tags={
                "digest": embeddings.digest, "k": str(rank), "scaling": embeddings.attributes["scaling"],
                "explained_variance": repr(float(factors["explained_variance"][-1])),
                **{f"images.{split}": str(embeddings[split].shape[0]) for split in SPLITS}},
            code=code,
            files=tuple(file for file in (tracking.LOCK_FILE, PARAMS_FILE) if file.exists())),
            params.tracking.experiment)


def _metrics(family: str, rank: int) -> dict[str, float]:
    """The whole embedding's share of the variance, and its accuracies by every probe."""
    path = workspace.evaluation_folder(family) / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise registry.RegistryError(f"{path}: no such file; run `nfk repro evaluate@{family}` first") from None
    share = found["explained_variance"].get(str(rank))
    return ({} if share is None else {_SHARE: share}) | {
        f"nfk-{rank}.{probe}.{name}": float(reading[name])
        for probe, reading in found["features"].get(f"nfk-{rank}", {}).items() if isinstance(reading, dict)
        for name in ("accuracy", "validation_accuracy") if name in reading}


def _hashes(family: str) -> dict[str, str]:
    """DVC's hashes of all that the pair was made from."""
    found = tracking.all_dvc_hashes()
    stages = ["data", *(f"{stage}@{family}" for stage in ("pretrain", "statistics", "svd", "embed"))]
    return {key: value for stage in stages if stage in found
            for key, value in found[stage].tags().items() if key.startswith("dvc.out.")}
