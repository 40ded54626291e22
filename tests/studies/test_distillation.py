"""Students that learn from a small teacher: each method, what all share, what is chosen, what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk import params
from nfk.checkpoint import Forgetful
from nfk.family_params import Lenet5Params, MlpParams
from nfk.models.families import initial
from nfk.studies import distillation
from nfk.studies.distilling.attention import AttentionTransfer
from nfk.studies.distilling.candidates import Candidate
from nfk.studies.distilling.fisher_kernel import FisherKernel, unit_size
from nfk.studies.distilling.fitnet import Hint
from nfk.studies.distilling.hinton import SoftTargets
from nfk.studies.distilling.lessons import Taught, teach, top_classes
from nfk.studies.distilling.seen import map_shapes, paired
from nfk.studies.distilling.selectivity import SelectivityTransfer
from nfk.studies.distilling.variational import VariationalInformation
from nfk.studies.study import Material
from nfk.study_params import DistillationParams
from nfk.training import TrainingError
from tests.models.small_networks import CLASSES, Images, fit, squares

SHAPE = (12, 12, 1)
STUDENT = Lenet5Params(batch=16, epochs=6, learning_rate=2e-3)
MODULES = {"l2": FisherKernel("l2"), "cosine": FisherKernel("cosine"), "kd": SoftTargets(2.0), "fitnet": Hint(),
           "at": AttentionTransfer(), "nst": SelectivityTransfer(), "vid": VariationalInformation()}


class Splits(NamedTuple):
    """Satisfies `nfk.studies.study.ImageSplits` as far as this study asks."""

    splits: dict[str, Images]
    shape = SHAPE
    class_names = tuple("abcd")

    def pixels(self, split, most=None):
        return self.splits[split].images[:most]

    def labels(self, split, most=None):
        return self.splits[split].labels[:most]


@pytest.fixture(scope="module")
def images():
    return Splits({"train": squares(64, 1, 0), "validation": squares(48, 1, 2), "test": squares(80, 1, 3)})


@pytest.fixture(scope="module")
def teacher():
    return fit("lenet5").model


@pytest.fixture(scope="module")
def embedding(teacher, images):
    """Four components of the teacher's centred gradients: the Fisher vectors at I = 1."""
    seen = jnp.asarray(images.pixels("train"), jnp.float32) / 255
    gradients = jax.jit(jax.vmap(lambda x: jax.flatten_util.ravel_pytree(
        jax.grad(teacher.log_density)(teacher.params, x, jax.random.key(0)))[0]))(seen)
    gradients = np.asarray(gradients)
    left, values, _ = np.linalg.svd(gradients - gradients.mean(axis=0), full_matrices=False)
    return (left * values)[:, :4]


@pytest.fixture(scope="module")
def material(teacher, images, embedding):
    return Material(images=images, model=teacher, scores=None, statistics=None, damping=0.0, unit_rows=False,
                    memory_bytes=1 << 30, modes=None,
                    embeddings={"train": embedding}, labelled=64, block=16, evaluate=None, seed=0, representations=None,
                    checkpoint=Forgetful())


def silent(done, total, what):
    pass


def learnt(teacher, images, embedding, candidates, labels=None, **options):
    student = initial(STUDENT, SHAPE, CLASSES, jax.random.key(1))
    pairs = paired(map_shapes(student.activations, SHAPE), map_shapes(teacher.activations, SHAPE))
    taught = Taught(images.pixels("train"), images.labels("train") if labels is None else labels,
                    unit_size(embedding))
    return teach(student, teacher, candidates, taught, pairs, key=jax.random.key(2), head_key=jax.random.key(3),
                 **options)


def test_every_method_learns_and_the_best_on_validation_is_kept(material, images, teacher):
    asked = DistillationParams(family="teacher", student=STUDENT, examples=64, components=4, alphas=(0.5,),
                               temperatures=(2.0,), strengths=(1e-6, 0.01))
    reports = []
    findings = distillation.run(material, asked, lambda *report: reports.append(report))
    methods = findings.numbers["methods"]
    assert set(methods) == {"student", "nfk", *asked.methods}
    for name, result in methods.items():
        assert result["accuracy"] > 2 / CLASSES, name
        assert result["validation"] == max(attempt["validation"] for attempt in result["tried"]), name
        assert result["chosen"] in [attempt["settings"] for attempt in result["tried"]], name
        assert len(result["tried"]) == (2 if name in ("fitnet", "at", "nst", "vid") else 1), name
    best = max(("nfk-l2", "nfk-cosine"), key=lambda name: methods[name]["validation"])
    assert methods["nfk"] == methods[best] | {"distance": best.removeprefix("nfk-")}
    test = images.splits["test"]
    assert findings.numbers["teacher"]["accuracy"] == teacher.accuracy(*test)
    assert findings.numbers["pairs"] == [[name, name] for name in ("conv_0", "pool_0", "conv_1", "pool_1")]
    assert reports[-1][:2] == (6 * 64, 6 * 64)
    assert len(findings.table.rows) == 1 + 8 and "NFK" in findings.summary
    assert list(findings.figures) == ["accuracy"]


def test_soft_targets_teach_without_labels(teacher, images, embedding):
    wrong = np.zeros(64, np.int32)
    taught, untaught = learnt(teacher, images, embedding, [
        Candidate("kd", {}, 0.0, 1.0, SoftTargets(2.0)), Candidate("student", {}, 1.0, 0.0, None)], labels=wrong)
    test = images.splits["test"]
    assert accuracy(taught, test) > 2 / CLASSES
    assert accuracy(untaught, test) == np.mean(test.labels == 0)


def test_agreement_is_with_the_teacher(material, teacher, images):
    asked = DistillationParams(family="teacher", student=STUDENT, examples=64, components=4, alphas=(0.0,),
                               temperatures=(2.0,), methods=("kd",))
    numbers = distillation.run(material, asked, silent).numbers
    said = top_classes(teacher, images.pixels("test"), 32)
    assert said.tolist() == np.asarray(teacher.activations(jnp.asarray(images.pixels("test"), jnp.float32) / 255)[
        "logits"]).argmax(axis=1).tolist()
    kd = numbers["methods"]["kd"]
    apart = abs(kd["accuracy"] - numbers["teacher"]["accuracy"])
    assert apart <= 1 - kd["agreement"] + 1e-9
    assert kd["agreement"] > 2 / CLASSES


def test_without_a_weight_every_method_is_the_student_alone(teacher, images, embedding):
    """So all start from the same weights and see the same batches and crops."""
    alone, *others = learnt(teacher, images, embedding, [
        Candidate("student", {}, 1.0, 0.0, None),
        *(Candidate(name, {}, 1.0, 0.0, module) for name, module in MODULES.items())])
    for name, other in zip(MODULES, others, strict=True):
        for ours, theirs in zip(jax.tree.leaves(alone), jax.tree.leaves(other), strict=True):
            assert np.asarray(ours) == pytest.approx(np.asarray(theirs), abs=2e-4), name


@pytest.mark.parametrize("name", MODULES)
def test_a_weight_moves_the_student(name, teacher, images, embedding):
    alone, moved = learnt(teacher, images, embedding, [
        Candidate("student", {}, 1.0, 0.0, None), Candidate(name, {}, 1.0, 1.0, MODULES[name])])
    apart = max(np.abs(ours - theirs).max() for ours, theirs in zip(
        jax.tree.leaves(alone), jax.tree.leaves(moved), strict=True))
    assert apart > 2e-3


def test_what_was_cut_off_goes_on_to_the_same_students(teacher, images, embedding):
    class Kept:
        def __init__(self):
            self.saved, self.left = {}, 3

        def due(self):
            return True

        def save(self, name, arrays):
            self.saved[name] = {key: np.array(value) for key, value in arrays.items()}
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

        def load(self, name):
            return self.saved.get(name)

    candidates = [Candidate("student", {}, 1.0, 0.0, None), Candidate("vid", {}, 1.0, 1.0, VariationalInformation())]
    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        learnt(teacher, images, embedding, candidates, checkpoint=kept)
    resumed = learnt(teacher, images, embedding, candidates, checkpoint=kept)
    assert kept.left == -3
    whole = learnt(teacher, images, embedding, candidates)
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_weight_that_diverges_is_said_and_never_chosen(material):
    asked = DistillationParams(family="teacher", student=STUDENT, examples=64, components=4, alphas=(0.5,),
                               temperatures=(1e-39, 2.0), methods=("kd",))
    findings = distillation.run(material, asked, silent)
    tried = findings.numbers["methods"]["kd"]["tried"]
    assert [attempt["diverged"] for attempt in tried] == [True, False]
    assert findings.numbers["methods"]["kd"]["chosen"] == tried[1]["settings"]
    hopeless = distillation.run(material, asked.model_copy(update={"temperatures": (1e-39,)}), silent)
    assert hopeless.table.rows[-1] == ("KD", "diverged", "–", "–", "alpha 0.5, temperature 1e-39")


def without_logits():
    return SimpleNamespace(params={}, log_density=lambda params, x, key: x.sum(), sample=lambda key, count: None,
                           activations=lambda x: {"conv_0": x})


def test_a_network_without_classes_is_refused(material):
    asked = DistillationParams(family="gan", student=STUDENT, examples=64, components=4)
    with pytest.raises(TrainingError, match="family gan has no layer called logits: distillation wants a classifier"):
        distillation.run(material._replace(model=without_logits()), asked, silent)


def test_a_teacher_without_maps_teaches_by_its_classes_and_embedding_alone(material, embedding):
    perceptron = initial(MlpParams(hidden=8), SHAPE, CLASSES, jax.random.key(0))
    asked = DistillationParams(family="mlp", student=STUDENT, examples=64, components=4)
    with pytest.raises(TrainingError, match="family mlp has no feature maps, which at, fitnet, nst, vid compare"):
        distillation.run(material._replace(model=perceptron), asked, silent)


@pytest.mark.parametrize("change, message", [
    ({"components": 9}, r"studies\.taught\.components=9 exceeds svd\.rank=8"),
    ({"examples": 4000}, r"studies\.taught\.examples=4000 exceeds the number of labelled training examples=3500"),
    ({"examples": 20}, r"student\.batch=64 exceeds examples=20"),
    ({"student": {"model": "mlp"}}, r"student\.model='mlp' has no feature maps, which at, fitnet, nst, vid compare"),
    ({"student": {"model": "lenet5", "batches": 8}}, r"studies\.taught\.student\.batches: unknown key, did you mean "
                                                     r"'batch'\?"),
    ({"student": {"model": "dcgan"}}, r"studies\.taught\.student\.model='dcgan': no classifier that learns here; "
                                      r"allowed: lenet5, mlp, wide_resnet"),
    ({"student": {"model": "lenet5", "torch": {"path": "x.safetensors", "sha256": "0" * 64}}},
     r"student\.torch is set, and a student learns here"),
])
def test_a_study_that_cannot_be_is_refused_before_any_work(change, message):
    asked = {"study": "distillation", "family": "cnn", "student": {"model": "lenet5"}, "components": 8} | change
    with pytest.raises(params.ParamsError, match=message) as refused:
        params.parse({"families": {"cnn": {"model": "lenet5"}}, "svd": {"rank": 8}, "studies": {"taught": asked}})
    assert "\n" not in str(refused.value)


def accuracy(variables, images):
    from dataclasses import replace

    return replace(initial(STUDENT, SHAPE, CLASSES, jax.random.key(1)), variables=variables).accuracy(*images)
