"""The labelled images alone: the line that the other methods must pass."""

from __future__ import annotations

from dataclasses import dataclass

from nfk.studies.few_label_methods.method import Batch, Kept, Loss, Method, Moment, Network, Variables, cross_entropy


@dataclass(frozen=True)
class Supervised(Method):
    """Cross-entropy on the labelled images."""

    name, title = "supervised", "Supervised only"
    rates: tuple[float, ...]

    @property
    def grid(self) -> tuple[dict[str, float], ...]:
        return tuple({"rate": rate} for rate in self.rates)

    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        del kept, moment
        passed = network(variables, batch.labelled)
        return Loss(cross_entropy(batch.targets, passed.logits), passed.statistics)
