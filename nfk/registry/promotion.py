"""The gate to `champion`, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import uuid4

from nfk.registry.client import NotGoodEnough, RegistryError
from nfk.registry.entries import (
    CHAMPION,
    FORMER,
    OUTDONE,
    PAIR,
    PROMOTION,
    ROLLED_BACK,
    Entry,
    entries,
    find,
    names_of,
    resolve,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NONE, _BEGUN, _OVER = "none", "begun", "over"


def promote(
    client: MlflowClient, reference: str, *, gain: float = 0.0, force: bool = False
) -> tuple[Entry, Entry | None]:
    """Make `reference` the champion if its gate metric is at least the champion's + `gain`; both, the new and the
    former champion. NotGoodEnough where it is worse, is judged by another metric, was rolled back, or lost to a better
    one promoted meanwhile; `force`, a person's own judgement, passes over the first three.

    Promotions at once: MLflow moves an alias in one step, so that there is never more than one champion; each writes
    whom it follows *before* it moves the alias and looks for rivals *after*, and again after each move that comes of
    it, so the one that moves it last sees all others, and the best stays. A rival is whoever follows somebody and is
    none of those this one follows, directly or by others; there is none where nobody else promotes between the first
    look and the last. One that broke off between the two counts as promoting still, until it is outdone or a person
    forces another. What `force` displaces counts as rolled back: no schedule brings it back.
    """
    candidate = find(client, reference)
    before = _promotions(client, candidate)
    pair = names_of(candidate.name)
    if candidate.name != pair.embedder:
        raise RegistryError(f"{candidate.name} follows {pair.embedder}: promote or roll back that one")
    champion = _champion(client, candidate.name)
    if champion is not None and champion.version == candidate.version:
        _crown(client, champion)  # a promotion that broke off between its two aliases is completed
        _forget(client, champion, ROLLED_BACK)  # of one by force that broke off before the first
        _over(client, find(client, champion.reference))
        return champion, champion
    if not force:
        _pass_gate(candidate, champion, gain)
    former = champion.version if champion else _NONE
    client.set_model_version_tag(candidate.name, candidate.version, FORMER, former)
    client.set_model_version_tag(candidate.name, candidate.version, PROMOTION, f"{uuid4().hex} {_BEGUN}")
    _forget(client, candidate, ROLLED_BACK, OUTDONE)
    if force:  # before the aliases move: cut off after them, it would never be
        if champion is not None:
            client.set_model_version_tag(champion.name, champion.version, ROLLED_BACK, candidate.version)
        for version in _begun(_promotions(client, candidate)):
            client.set_model_version_tag(candidate.name, version, OUTDONE, candidate.version)
    _crown(client, candidate)
    if force:
        _over(client, find(client, candidate.reference))
        return find(client, candidate.reference), champion
    best, rivals = candidate, _rivals(client, candidate, candidate, before)
    while better := [entry for entry in rivals if _metric(entry) > _metric(best)]:
        best = max(better, key=_metric)
        _crown(client, best)
        rivals = _rivals(client, best, candidate, before)
    for entry in [*rivals, candidate]:  # or whoever is promoted after a way back would meet it again
        if _metric(entry) < _metric(best):
            client.set_model_version_tag(entry.name, entry.version, OUTDONE, best.version)
    _over(client, find(client, candidate.reference))
    if best is not candidate:
        raise NotGoodEnough(f"{candidate.reference} was not promoted: {best.reference}, at {best.metric:.4f} better "
                            f"than {candidate.metric:.4f}, was promoted meanwhile and is the champion")
    return find(client, candidate.reference), champion


def _promotions(client: MlflowClient, candidate: Entry) -> dict[str, str | None]:
    """By version, what was written of its last promotion, without the candidate's."""
    return {entry.version: _promotion(entry) for entry in entries(client, candidate.name)
            if entry.version != candidate.version}


def _promotion(entry: Entry) -> str | None:
    """What was written of its last one; that of an entry that was outdone or rolled back is over."""
    written = entry.tags.get(PROMOTION)
    return _ended(written) if written and {OUTDONE, ROLLED_BACK} & entry.tags.keys() else written


def _ended(promotion: str) -> str:
    return f"{promotion.partition(' ')[0]} {_OVER}"


def _begun(promotions: Mapping[str, str | None]) -> list[str]:
    """Whose promotion goes on, or broke off."""
    return [version for version, written in promotions.items() if written and written.endswith(_BEGUN)]


def _over(client: MlflowClient, entry: Entry) -> None:
    if (written := entry.tags.get(PROMOTION, _OVER)).endswith(_BEGUN):
        client.set_model_version_tag(entry.name, entry.version, PROMOTION, _ended(written))


def _rivals(client: MlflowClient, best: Entry, candidate: Entry, before: Mapping[str, str | None]) -> list[Entry]:
    """Of those that were promoted, or began to be, whom neither the best nor the candidate is or follows; none where
    this one was alone since `before`: who was champion once, and whose follower was deleted, say, is no rival."""
    now = _promotions(client, candidate)
    if now == before and not _begun(now):
        return []
    found = {entry.version: entry for entry in entries(client, candidate.name) if FORMER in entry.tags}
    followed: set[str] = set()
    for version in (best.version, candidate.version):
        while version in found and version not in followed:
            followed.add(version)
            version = found[version].tags[FORMER]
    return [entry for version, entry in found.items()
            if version not in followed and not {ROLLED_BACK, OUTDONE} & entry.tags.keys()
            and entry.tags.get("gate.metric") == candidate.tags.get("gate.metric")]


def _metric(entry: Entry) -> float:
    return entry.metric or 0.0


def rollback(client: MlflowClient, name: str) -> tuple[Entry, Entry]:
    """Give the championship back to the champion before this one; the champion restored, and the one it was."""
    name = resolve(name)[0]
    if name != (pair := names_of(name)).embedder:
        raise RegistryError(f"{name} follows {pair.embedder}: promote or roll back that one")
    champion = _champion(client, name)
    if champion is None:
        find(client, name)  # says what there is
        raise RegistryError(f"{name} has no champion to roll back")
    former = champion.tags.get(FORMER, _NONE)
    if former == _NONE:
        raise RegistryError(f"{champion.reference} is the first champion: there is none before it to go back to")
    restored = find(client, f"{name}/{former}")
    client.set_model_version_tag(name, champion.version, ROLLED_BACK, former)
    _crown(client, restored)
    return find(client, restored.reference), champion


def _crown(client: MlflowClient, entry: Entry) -> None:
    """Move both aliases of the pair. Serving reads the embedder's, which is moved first; should this process end
    between the two, promoting again moves the second. The embeddings follow whichever embedder is champion by then: of
    two promotions at once, the one that moves the first alias last is not the one that moves the second last."""
    client.set_registered_model_alias(entry.name, CHAMPION, entry.version)
    embeddings, followed = names_of(entry.name).embeddings, entry
    while True:
        for version in entries(client, embeddings):
            if version.tags.get(PAIR) == followed.version:
                client.set_registered_model_alias(embeddings, CHAMPION, version.version)
        champion = _champion(client, entry.name)
        if champion is None or champion.version == followed.version:
            return
        followed = champion


def _forget(client: MlflowClient, entry: Entry, *tags: str) -> None:
    for tag in tags:
        if tag in entry.tags:
            client.delete_model_version_tag(entry.name, entry.version, tag)


def _champion(client: MlflowClient, name: str) -> Entry | None:
    return next((entry for entry in entries(client, name) if CHAMPION in entry.aliases), None)


def _pass_gate(candidate: Entry, champion: Entry | None, gain: float) -> None:
    if candidate.metric is None:
        raise RegistryError(f"{candidate.reference} was registered without a metric; register it again once evaluated")
    if champion is None or champion.metric is None:
        return
    if ROLLED_BACK in candidate.tags:  # or the next refresh over the same data would undo the rollback
        raise NotGoodEnough(f"{candidate.reference} was champion and was rolled back; it stays a candidate, "
                            "`nfk registry promote --force` brings it back")
    if candidate.tags.get("gate.metric") != champion.tags.get("gate.metric"):
        raise NotGoodEnough(
            f"{candidate.reference} is judged by {candidate.tags.get('gate.metric')}, the champion "
            f"{champion.reference} by {champion.tags.get('gate.metric')}: they cannot be compared; it stays a "
            "candidate, `nfk registry promote --force` takes it by your own judgement")
    bound = champion.metric + gain
    if candidate.metric < bound:
        raise NotGoodEnough(
            f"{candidate.reference} has {candidate.tags.get('gate.metric')}={candidate.metric:.4f}, below {bound:.4f} "
            f"that the champion {champion.reference} asks (its {champion.metric:.4f} + registry.gain={gain:g}); "
            "it stays a candidate")
