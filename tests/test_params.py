"""params.yaml is refused before any work, with key, value, bound and the nearest name."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from nfk import params
from nfk.params import ParamsError

LEAST = {"families": {"gan": {"model": "dcgan"}}}


def with_(section: str, **values):
    return {**LEAST, section: values}


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
])
def test_refusals(content, message):
    with pytest.raises(ParamsError) as refused:
        params.parse(content, source="params.yaml")
    assert str(refused.value).startswith("params.yaml: " + message)
    assert "\n" not in str(refused.value)


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


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        params.parse(LEAST).svd.rank = 3


def test_an_unknown_family_is_named_with_its_neighbours():
    with pytest.raises(ParamsError, match=r"family 'gna' is not in params\.yaml; there are gan, did you mean 'gan'"):
        params.parse(LEAST).family("gna")


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
