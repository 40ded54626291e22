"""params.yaml is refused before any work, with key, value, bound and the nearest name."""

from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from nfk import params
from nfk.params import ParamsError

LEAST = {"families": {"gan": {"model": "dcgan"}}}
TORCH = {"path": "weights.safetensors", "sha256": "0" * 64}


def with_(section: str, **values):
    return {**LEAST, section: values}


def family(name="net", **values):
    return {"families": {name: values}}


def study(asked, name="asked", **values):
    return with_("studies", **{name: {"study": asked, "family": "gan", **values}})


@pytest.mark.parametrize(("content", "message"), [
    ({**LEAST, "sdv": {}}, "sdv: unknown key, did you mean 'svd'?; allowed: data, embed,"),
    (with_("svd", rnak=3), "svd.rnak: unknown key, did you mean 'rank'?"),
    (with_("svd", rank=0), "svd.rank=0: must be greater than or equal to 1"),
    (with_("svd", rank=1.5), "svd.rank=1.5: must be a valid integer"),
    (with_("svd", rank=900, examples=512), "svd.rank=900 exceeds the number of examples decomposed=512; lower it"),
    (with_("svd", examples=4000), "svd.examples=4000 exceeds data.train=3500; lower it"),
    (with_("svd", strategy="strem"), "svd.strategy='strem': must be 'auto', 'explicit', 'gram', 'panels', 'cogram', "
     "'stored', 'stream' or 'jvp'"),
    (with_("data", name="../x"), "data.name='../x'"),
    ({"families": {"gan": {"model": "dcgn"}}}, "families.gan.model='dcgn': unknown model, did you mean 'dcgan'?"),
    ({"families": {"gan": {"model": "dcgan", "widht": 3}}}, "families.gan.widht: unknown key, did you mean 'width'?"),
    ({"families": {"mlp": {"model": "mlp", "hiden": 3}}}, "families.mlp.hiden: unknown key, did you mean 'hidden'?"),
    (with_("evaluate", neighbours=[4000]), "evaluate.neighbours=4000 exceeds the number of labelled training examples"),
    ({"families": {"gan": {}}}, "families.gan.model: missing; allowed: dcgan, resnet_gan, conv_vae"),
    ({"families": {}}, "families={}"),
    (with_("theta", gna={}), "theta.gna: no such family, did you mean 'gan'?; there are gan"),
    (with_("theta", gan={"includes": []}), "theta.gan.includes: unknown key, did you mean 'include'?"),
    (with_("theta", gan={"include": ["(a"]}), "theta.gan.include.0: '(a' is no regular expression: missing )"),
    ({}, "families: Field required"),
    (family(model="pkg:net", option={}), "families.net.option: unknown key, did you mean 'options'?; allowed: model,"),
    (family(model="pkg:net", dcgan=1), "families.net.dcgan: unknown key; allowed: model, options"),
    (family("student", model="dcgn"), "families.student.model='dcgn': unknown model, did you mean 'dcgan'?; allowed:"),
    (family(model="conv_vae", importance=True), "families.net: importance=True needs noises to weigh and has noises=0; "
     "raise noises, or set importance to false; change it"),
    (family(model="vdvae", encoder=[1, 1]), "families.net: encoder has 2 resolutions and decoder 4; give both as many"),
    (family(model="edm", potential_low=6.0), "families.net: potential_low=6.0 must be below potential_high=5.0"),
    (family(model="mlp", torch={**TORCH, "std": [1.0]}), "families.net.torch: mean has 0 channels, std 1; give both"),
    (family(model="mlp", torch={**TORCH, "sha": ""}), "families.net.torch.sha: unknown key, did you mean 'sha256'?; "
     "allowed: mean, modules, path, sha256, std"),
    (family(model="wide_resnet", depth=12), "families.net: depth=12 must be 6 n + 4, such as 10 or 16; change it"),
    (study("retreival"), "studies.asked.study='retreival': unknown study, did you mean 'retrieval'?; allowed:"),
    (with_("studies", asked={}), "studies.asked.study=None: unknown study; allowed: eigenvalue_error, timing,"),
    (study("retreival", name="student"), "studies.student.study='retreival': unknown study, did you mean 'retrieval'?"),
    (study("retrieval", family="gna"), "studies.asked.family='gna': no such family, did you mean 'gan'?; there are"),
    (study("retrieval", cuonts=[1]), "studies.asked.cuonts: unknown key, did you mean 'counts'?; allowed: counts,"),
    (study("retrieval", timing=1), "studies.asked.timing: unknown key; allowed: counts, family, study"),
    (study("components", components=0), "studies.asked.components=0: must be greater than or equal to 1; change it"),
    (study("timing", first=9, last=8), "studies.asked: first=9 is above last=8; give the smaller exponent first"),
    (study("distillation", student={"model": "mpl"}), "studies.asked.student.model='mpl': no classifier that learns "
     "here, did you mean 'mlp'?; allowed: lenet5, mlp, wide_resnet"),
    (study("distillation", student={}), "studies.asked.student.model=None: no classifier that learns here; allowed:"),
    (study("distillation", student={"model": "lenet5", "bach": 2}), "studies.asked.student.bach: unknown key, did you "
     "mean 'batch'?; allowed: batch, epochs, learning_rate, model, torch"),
    (study("distillation", student={"model": "lenet5", "torch": TORCH | {"paht": ""}}), "studies.asked.student.torch."
     "paht: unknown key, did you mean 'path'?; allowed: mean, modules, path, sha256, std"),
    (study("distillation", student={"model": "lenet5", "torch": TORCH}), "studies.asked: student.torch is set, and a "
     "student learns here; change it"),
    (study("distillation", student={"model": "lenet5", "batch": 600}), "studies.asked: student.batch=600 exceeds "
     "examples=500; change it"),
    (study("distillation", student={"model": "mlp"}), "studies.asked: student.model='mlp' has no feature maps, which "
     "at, fitnet, nst, vid compare; choose lenet5 or wide_resnet, or leave them out of methods; change it"),
    (study("distillation", components=200), "studies.asked.components=200 exceeds svd.rank=128; lower it"),
    (study("distillation", examples=4000), "studies.asked.examples=4000 exceeds the number of labelled training "
     "examples=3500; lower it"),
    (study("semi_supervised", network={"model": "dcgan"}), "studies.asked.network.model='dcgan': no classifier that "
     "learns here; allowed: lenet5, wide_resnet"),
    (study("semi_supervised", network={"model": "lenet5", "torch": TORCH}), "studies.asked.network: torch has weights "
     "trained elsewhere, and the study trains its own; change it"),
])
def test_refusals(content, message):
    with pytest.raises(ParamsError) as refused:
        params.parse(content, source="params.yaml")
    assert str(refused.value).startswith("params.yaml: " + message)
    assert "\n" not in str(refused.value)


def test_settings_that_fit_together_are_kept():
    kept = params.parse({
        "families": {"gan": {"model": "dcgan"}, "vae": {"model": "conv_vae", "noises": 2, "importance": True},
                     "deep": {"model": "vdvae", "encoder": [1, 1], "decoder": [1, 2]}, "diffusion": {"model": "edm"},
                     "wide": {"model": "wide_resnet", "depth": 16, "torch": {**TORCH, "mean": [0.5], "std": [0.2]}}},
        "theta": {"gan": {"exclude": ["bias"]}},
        "studies": {"time": {"study": "timing", "family": "gan", "first": 8, "last": 8},
                    "taught": {"study": "distillation", "family": "wide", "components": 128, "examples": 3500},
                    "few": {"study": "semi_supervised", "family": "wide", "network": {"model": "lenet5"}}}})
    assert kept.family("vae").importance and kept.family("deep").decoder == (1, 2)
    assert kept.family("diffusion").potential_low == 0.05 and kept.family("wide").torch.std == (0.2,)
    assert kept.theta["gan"].exclude == ("bias",)
    assert kept.study("time").last == 8 and kept.study("taught").examples == 3500
    assert kept.study("few").network.model == "lenet5"


def test_each_fault_has_its_own_line():
    with pytest.raises(ParamsError) as refused:
        params.parse({**LEAST, "svd": {"rank": 0, "rnk": 1}, "embed": {"scaling": "log"}})
    assert len(str(refused.value).splitlines()) == 3


def test_files(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("families: {gan: {model: dcgan}}\nsvd: {damping: 1e-3, rank: 8}\n")
    assert params.load(file).svd.rank == 8
    assert params.load(file).svd.damping == 1e-3  # YAML 1.2, as DVC reads it
    file.write_text("svd: {}\nsvd: {}\n")
    with pytest.raises(ParamsError, match=r"not valid YAML.*duplicate key"):
        params.load(file)
    file.write_text("- a\n")
    with pytest.raises(ParamsError, match="expected sections, found list"):
        params.load(file)
    with pytest.raises(ParamsError, match="no such file"):
        params.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(("content", "message"), [
    ("title: caf\xe9".encode("latin-1"), r"not valid YAML: 'utf-8' codec can't decode byte 0xe9 in position 10"),
    (b"#" * 65_537, "65,537 characters, at most 65,536; write fewer"),
    (b"[" * 501, r"501 \[ and \{, at most 500; write fewer"),
    (b"- " * 3000, "not valid YAML: nested too deeply"),
    (b"a: !!int x", "not valid YAML: invalid literal for int"),
    (b"1: a", "key 1 is no text; put it in quotes"),
    (b"a: [{1: b}]", "key 1 is no text; put it in quotes"),
    (b"a: &a [*a]", "more than 100,000 values or 40 levels, aliases counted each time; write fewer"),
    (b"a: " + b"[" * 41 + b"]" * 41, "more than 100,000 values or 40 levels"),
    (b"a0: &a0 1\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 8)),
     "more than 100,000 values or 40 levels"),
    (b"seed: 0x" + b"f" * 4000, "a whole number of 16,000 bits, at most 1,024; write a smaller one"),
    (b'report: {title: "\\ud800"}', r"half a character \(\\ud800 to \\udfff\) in a text; write the whole character"),
])
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(ParamsError, match=rf"params\.yaml: {message}") as refused:
        params.load(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pipeline", ["- a", "stages: {a", "stages: [a]", "stages: {a: {params: null}}",
                                      "stages: {a: 1}", "stages: {a: {x: !!bool maybe}}"])
def test_a_pipeline_that_is_none_is_refused_in_one_line(tmp_path, pipeline):
    (tmp_path / "params.yaml").write_text(json.dumps(LEAST))
    (tmp_path / "dvc.yaml").write_text(pipeline)
    with pytest.raises(ParamsError, match=r"dvc\.yaml: is no pipeline that DVC could run \(.+\); correct it$"):
        params.load(tmp_path / "params.yaml")


def test_a_pipeline_nested_too_deeply_is_refused_in_one_line(tmp_path):
    (tmp_path / "params.yaml").write_text(json.dumps(LEAST))
    (tmp_path / "dvc.yaml").write_text("- " * 3000)
    with pytest.raises(ParamsError, match=r"dvc\.yaml: nested too deeply; write it flatter"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("content, message", [
    (LEAST | {"seed": 10**5000}, "params: a whole number of 16,610 bits, at most 1,024"),
    ({"families": {1: {"model": "mlp", "x": 1}}}, "params: key 1 is no text"),
])
def test_a_mapping_is_refused_as_a_file_is(content, message):
    with pytest.raises(ParamsError, match=message):
        params.parse(content)


@pytest.mark.parametrize("pipeline", ["", "stages:", "stages: {}", "plots: []"])
def test_a_pipeline_without_stages_asks_for_no_section(tmp_path, pipeline):
    (tmp_path / "params.yaml").write_text(json.dumps(LEAST))
    (tmp_path / "dvc.yaml").write_text(pipeline)
    assert params.load(tmp_path / "params.yaml") == params.parse(LEAST)


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        params.parse(LEAST).svd.rank = 3


def test_an_unknown_family_is_named_with_its_neighbours():
    with pytest.raises(ParamsError, match=r"family 'gna' is not in params\.yaml; there are gan, did you mean 'gan'"):
        params.parse(LEAST).family("gna")


def test_an_unknown_study_is_named_with_its_neighbours():
    with pytest.raises(ParamsError, match=r"study 'near' is not in params\.yaml; there are none$"):
        params.parse(LEAST).study("near")
    with pytest.raises(ParamsError, match=r"study 'naer' is not in params\.yaml; there are near, did you mean 'near'"):
        params.parse(study("retrieval", name="near")).study("naer")


def test_the_shipped_file_and_the_dag_agree(request):
    root = request.config.rootpath
    shipped = params.load(root / "params.yaml")
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    sections = set(type(shipped).model_fields) | {"families.${key}"}
    for name, stage in stages.items():
        named = stage.get("do", stage).get("params", [])
        assert all(key in sections or key.split(".")[0] in sections for key in named), name


def test_a_section_that_dvc_follows_must_be_written_out(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("families: {gan: {model: dcgan}}\nseed: 0\n")
    assert params.load(file).theta == {}
    stages = "stages: {a: {cmd: x, params: [seed]}, b: {foreach: [1], do: {params: [theta]}}}"
    (tmp_path / "dvc.yaml").write_text(stages)
    with pytest.raises(params.ParamsError, match=r"params\.yaml: theta: missing, and DVC follows it; add theta: \{\}"):
        params.load(file)
    file.write_text("families: {gan: {model: dcgan}}\nseed: 0\ntheta: {}\n")
    assert params.load(file).theta == {}
    (tmp_path / "dvc.yaml").write_text("stages: {b: {foreach: '${studies}', do: {cmd: y}}}")
    with pytest.raises(params.ParamsError, match=r"studies: missing, and DVC follows it; add studies: \{\}"):
        params.load(file)


def test_schema_names_every_section():
    assert set(params.schema()["properties"]) == set(params.Params.model_fields)


def test_the_shipped_file_names_every_number(request):
    """DVC sees what is in the file, not defaults in code: a number left out could change unseen."""
    root = request.config.rootpath
    written = YAML(typ="safe").load(root / "params.yaml")
    full = params.load(root / "params.yaml").model_dump(mode="json")

    def names(section):
        return {key: names(value) for key, value in section.items()} if isinstance(section, dict) else None

    assert names(written) == names(full)


def test_code_is_what_families_of_ones_own_name():
    families = {"gan": {"model": "dcgan"}, "mine": {"model": "my_nets.dense:build"}, "other": {"model": "nets:make"}}
    assert params.parse({"families": families}).code == ("my_nets.dense:build", "nets:make")
    assert params.parse({"families": {"gan": {"model": "dcgan"}}}).code == ()
