"""The page shows every number it was given, loads nothing, escapes everything and hides no gap."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from example_report import GAN, metrics_of
from parsed_page import ParsedPage

from nfk.report import numbers
from nfk.report.content import Check, PlacedFigure, Report
from nfk.report.findings import findings
from nfk.report.metrics import ReportError, parse_metrics
from nfk.report.page import render
from nfk.report.tables import comparison, name_of

HOSTILE = "<script>alert('x')</script>\"'&<img src=http://evil.example/x.png>"


def with_family(report: Report, index: int = 0, **changes: Any) -> Report:
    """The report with one family changed."""
    families = list(report.families)
    families[index] = families[index].model_copy(update=changes)
    return report.model_copy(update={"families": tuple(families)})


def plain(sentence: str) -> str:
    return sentence.replace("\N{NO-BREAK SPACE}", " ")


def text(accuracy: float, error: float) -> str:
    return f"{100 * accuracy:.1f} ± {100 * error:.1f}"


def test_every_probe_of_every_representation_is_in_the_familys_table(report: Report) -> None:
    page = ParsedPage(render(report))
    for family in report.families:
        table = f"Accuracy of each representation of {family.name}"
        for key, feature in family.metrics.features.items():
            row = page.row(table, name_of(key).label)
            shown = [text(probe.accuracy, probe.standard_error)
                     for probe in (feature.logistic, feature.squared_hinge, feature.knn)]
            assert [cell for cell in row[1:] if cell] == [*shown, f"{feature.dimension:,}"]


def test_chosen_settings_are_shown_with_the_accuracy_that_chose_them(report: Report) -> None:
    row = ParsedPage(render(report)).row("Settings chosen for gan", "NFK, k = 128")
    assert row[1:] == ["0.1", "95.5", "0.001", "95.1", "5, cosine", "93.6"]


def test_few_labels_show_mean_and_standard_deviation(report: Report) -> None:
    page = ParsedPage(render(report))
    for family in report.families:
        for key, feature in family.metrics.features.items():
            row = page.row(f"Few labels, {family.name}", name_of(key).label)
            few = feature.few_labels.values()
            assert row[1:] == [text(cell.mean, cell.standard_deviation) for cell in few]
    assert "mean ± standard deviation over 3 draws" in page.text


def test_spectrum_is_shown_centred_and_not(report: Report) -> None:
    page = ParsedPage(render(report))
    table = "Explained variance of gan"
    # the numbers of components a reader compares by, and the last; the figure has the rest
    assert page.tables[table][0][1:] == ["10", "20", "50", "100", "110"]
    assert page.row(table, "Trained")[1:] == ["55.6", "63.7", "74.7", "82.2", "83.1"]
    uncentred = page.row(table, "Trained, mean score not subtracted")
    assert uncentred[1:] == ["97.1", "97.8", "98.5", "98.9", "98.9"]
    assert "3,500 × 16,871" in page.text and "stored, 5 passes" in page.text and "3.4 × 10⁻⁵" in page.text


def test_comparison_sets_the_embedding_beside_its_rivals(report: Report) -> None:
    rows = ParsedPage(render(report)).tables["Comparison of representations"]
    start = next(place for place, row in enumerate(rows) if row[0].startswith("gan"))
    assert rows[start] == ["gan dcgan, 16,871 parameters"]
    assert [(row[0], row[1], row[-1]) for row in rows[start + 1:start + 6]] == [
        ("NFK, k = 128", "95.0 ± 0.7", "128"), ("PCA of pixels, 128", "91.3 ± 0.9", "128"),
        ("Full Fisher vector", "96.6 ± 0.6", "16,871"),
        ("Best activations: all layers", "96.7 ± 0.6", "3,580"), ("Pixels", "90.7 ± 0.9", "784")]


def test_best_activations_are_chosen_without_the_test_split() -> None:
    content = metrics_of("gan", GAN)
    content["features"]["activations-conv2"]["logistic"]["validation_accuracy"] = 0.999
    labels = [row.label for row in comparison(parse_metrics(content))]
    assert "Best activations: conv2" in labels


def test_highest_of_a_column_is_bold_and_so_are_its_equals(report: Report) -> None:
    content = metrics_of("gan", {"nfk-128": (128, 0.9501), "pca-128": (128, 0.9504), "pixels": (784, 0.95)})
    content["features"]["pixels"]["logistic"]["accuracy"] = 0.94
    page = render(with_family(report, metrics=parse_metrics(content)))
    comparison_of_gan = page.split('id="comparison"')[1].split("conv_vae")[0]
    assert re.findall(r'best">([\d.]+)', comparison_of_gan) == ["95.0", "95.0"]


def test_left_out_rows_give_their_reason_and_never_a_number(report: Report) -> None:
    page = ParsedPage(render(report))
    reason = "left out: needs 8.7 GiB, above evaluate.full_vector_gib=8.0"
    for table in ("Accuracy of each representation of classifier", "Few labels, classifier"):
        assert page.row(table, "Full Fisher vector") == ["Full Fisher vector", reason]
    assert ["Full Fisher vector", reason] in page.tables["Comparison of representations"]


def test_a_rival_that_was_not_evaluated_is_left_out_of_the_comparison(report: Report) -> None:
    few = {name: GAN[name] for name in ("nfk-16", "pca-16", "pca-128", "nfk-128")}
    page = ParsedPage(render(with_family(report, metrics=parse_metrics(metrics_of("gan", few)))))
    assert ["Pixels", "left out: not among the representations evaluated"] \
        in page.tables["Comparison of representations"]


def test_activations_left_out_as_one_are_left_out_of_the_comparison() -> None:
    few = {name: GAN[name] for name in ("nfk-128", "pca-128", "pixels", "full-fisher-vector")}
    content = metrics_of("gan", few, left_out={"activations-all": "too large", "pca-64": "another reason"})
    assert [(row.label, row.left_out) for row in comparison(parse_metrics(content)) if row.left_out] == [
        ("Best activations", "too large")]


def test_a_probe_that_was_not_run_says_so(report: Report) -> None:
    content = metrics_of("gan", GAN)
    content["features"]["full-fisher-vector"]["knn"] = None
    page = ParsedPage(render(with_family(report, metrics=parse_metrics(content))))
    assert page.row("Accuracy of each representation of gan", "Full Fisher vector")[-2] == "not run"


def test_claims_are_marked_in_words_across_families_and_in_each(report: Report) -> None:
    page = ParsedPage(render(report))
    statement = "128 numbers recover the full Fisher vector."
    across = page.row("Claims by network", statement)
    assert across[1:] == ["✗ does not hold 95.0 against 96.5 −1.5 ± 0.9",
                          "✗ does not hold 90.7 against 93.6 −2.9 ± 0.9", "not tested"]
    assert page.row("Claims tested on gan", statement)[1:] == [
        "✗ does not hold", "95.0", "96.5", "−1.5 ± 0.9",
        "the paper’s networks have 5.9M parameters Why not: the probe still gains from k = 64 to 128"]
    holding = "The embedding is above PCA of the pixels at the same k."
    assert page.row("Claims tested on gan", holding)[1] == "✓ holds"


def test_claims_of_one_statement_are_told_apart(report: Report) -> None:
    content = metrics_of("gan", GAN)
    shared = content["claims"][1] | {"name": "explains-uncentred"}
    content["claims"].append(shared)
    page = ParsedPage(render(with_family(report, metrics=parse_metrics(content))))
    first_cells = [row[0] for row in page.tables["Claims by network"]]
    assert [cell for cell in first_cells if cell.startswith("The spectrum")] == [
        "The spectrum falls faster after training. Trained above untrained",
        "The spectrum falls faster after training. Explains uncentred"]


def test_a_claim_worded_by_family_goes_by_its_name(report: Report) -> None:
    content = metrics_of("gan", GAN)
    content["claims"][0] |= {"statement": "The embedding is above PCA at k = 64."}
    page = ParsedPage(render(with_family(report, metrics=parse_metrics(content))))
    assert page.row("Claims by network", "Above pca")[1].startswith("✓ holds")
    assert page.row("Claims tested on gan", "The embedding is above PCA at k = 64.")[1] == "✓ holds"


def test_a_failed_check_shows_its_remedy_and_is_announced_at_the_top(report: Report) -> None:
    page = ParsedPage(render(report))
    assert page.row("Checks of gan", "mode coverage") == [
        "mode coverage", "✗ failed", "0.71", "0.8", "train longer: raise families.gan.epochs"]
    assert page.row("Checks of vae", "largest residual") == [
        "largest residual", "✓ passed", "3.4 × 10⁻⁵", "0.001", ""]
    assert "Read with care: 1 of 5 checks failed" in page.text
    passed = ParsedPage(render(with_family(report, checks=report.families[1].checks)))
    assert "Read with care" not in passed.text and "All 3 checks of the run passed." in passed.text


def test_times_that_are_not_known_are_not_shown(report: Report) -> None:
    svd = report.families[0].svd.model_copy(update={"seconds": None})
    untimed = with_family(report, svd=svd, training_seconds=None)
    pages = ParsedPage(render(report)), ParsedPage(render(untimed))
    assert [page.text.count("Training time") for page in pages] == [3, 2]
    assert [page.text.count("21.4 s") for page in pages] == [3, 2]


def test_findings_are_sentences_of_the_numbers(report: Report) -> None:
    found = {finding.subject: plain(finding.sentence) for finding in findings(report.families)}
    assert found["gan"] == (
        "from the 128 numbers of the NFK embedding a linear probe reads 95.0 ± 0.7 % of the test labels: "
        "3.8 points above PCA of the pixels at the same size, 1.6 points below the full Fisher vector "
        "(within the error), 1.7 points below the best activations (within the error) "
        "and 4.4 points above the raw pixels.")
    assert "full Fisher vector" not in found["classifier"]
    assert "5 of 8 claims hold at this size" in found["The paper"]
    page = ParsedPage(render(report))
    assert all(sentence in plain(page.text) for sentence in found.values())


def test_data_and_lineage_are_complete(report: Report) -> None:
    page = ParsedPage(render(report))
    lineage = report.lineage
    assert page.row("Inputs and outputs, by DVC", "models/gan")[1] == lineage.dvc["models/gan"]
    assert page.row("Stores", "factors/gan.zarr")[1] == lineage.stores["factors/gan.zarr"]
    assert page.row("Versions", "jax")[1] == "0.10.2"
    assert page.row("MLflow runs", "svd@gan")[1] == lineage.runs["svd@gan"]
    for said in (lineage.commit, lineage.device, *lineage.commands, report.data.digest, "28 × 28 × 1"):
        assert said in page.text


def test_uncommitted_changes_are_said_where_the_commit_is(report: Report) -> None:
    clean = report.model_copy(update={"lineage": report.lineage.model_copy(update={"dirty": False})})
    assert "The commit is not enough." in ParsedPage(render(report)).text
    assert "uncommitted" not in render(clean) and "not enough" not in render(clean)


def test_password_of_the_tracking_service_is_not_shown(report: Report) -> None:
    page = render(report)
    assert "hunter2" not in page
    assert "postgresql://db.example/mlflow" in page


def test_page_loads_nothing(report: Report) -> None:
    page = render(report)
    parsed = ParsedPage(page)
    tags = {tag for tag, _ in parsed.attributes}
    assert not tags & {"script", "iframe", "object", "embed", "video", "audio", "base", "form"}
    sources = parsed.values("img", "src")
    assert len(sources) == 6 * 3 + 1
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert parsed.values("link", "href") == ["data:,"]
    assert all(href.startswith("#") for href in parsed.values("a", "href"))
    assert not re.search(r"@import|url\(", page)
    (policy,) = [values["content"] for tag, values in parsed.attributes
                 if values.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_contents_lead_to_every_section(report: Report) -> None:
    parsed = ParsedPage(render(report))
    anchors = [values["id"] for _, values in parsed.attributes if "id" in values]
    assert len(anchors) == len(set(anchors))
    links = set(parsed.values("a", "href"))
    assert links == {"#findings", "#comparison", "#claims", "#data", "#lineage",
                     *(f"#family-{family.name}" for family in report.families)}
    assert {link.removeprefix("#") for link in links} <= set(anchors)


def test_figures_are_embedded_whole_with_their_words(report: Report, drawings: Path) -> None:
    parsed = ParsedPage(render(report))
    images = [values for tag, values in parsed.attributes if tag == "img"]
    samples = next(values for values in images if values["alt"] == "A grid of digits, most of them legible.")
    assert base64.b64decode(samples["src"].split(",")[1]) == (drawings / "samples.png").read_bytes()
    assert (samples["width"], samples["height"]) == ("480", "128")
    assert "Sixty images drawn from the network." in parsed.text


def test_hostile_words_stay_words(report: Report) -> None:
    content = metrics_of("gan", GAN, left_out={HOSTILE: HOSTILE})
    content["claims"][0] |= {"statement": HOSTILE, "note": HOSTILE}
    figure = PlacedFigure(place="samples", path=report.data.grid.path, caption=HOSTILE, alt=HOSTILE)
    check = Check(name=HOSTILE, passed=False, value=HOSTILE, bound=HOSTILE, remedy=HOSTILE)
    attacked = with_family(report, metrics=parse_metrics(content), name=HOSTILE, model=HOSTILE,
                           figures=(figure,), training={HOSTILE: HOSTILE}, checks=(check,))
    attacked = attacked.model_copy(update={
        "title": HOSTILE,
        "data": attacked.data.model_copy(update={"classes": (HOSTILE,), "source": HOSTILE}),
        "lineage": attacked.lineage.model_copy(
            update={"versions": {HOSTILE: HOSTILE}, "commands": (HOSTILE,)})})
    page = render(attacked)
    parsed = ParsedPage(page)
    assert "<script" not in page
    assert "script" not in {tag for tag, _ in parsed.attributes}
    assert not any("evil" in source for source in parsed.values("img", "src"))
    assert HOSTILE in parsed.text
    assert parsed.row("Versions", HOSTILE)[1] == HOSTILE


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert render(report) == render(report)


def test_a_missing_figure_is_named_with_what_to_do(report: Report, tmp_path: Path) -> None:
    lost = PlacedFigure(place="spectrum", path=tmp_path / "spectrum.png", caption="Spectrum.", alt="A curve.")
    with pytest.raises(ReportError, match=r"spectrum\.png \(Spectrum\.\): No such file.*run the stage"):
        render(with_family(report, figures=(lost,)))


def test_a_figure_that_is_no_png_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"<svg onload=alert(1)>")
    false = PlacedFigure(place="curves", path=tmp_path / "curves.png", caption="Losses.", alt="A curve.")
    with pytest.raises(ReportError, match=r"its 21 bytes are no PNG"):
        render(with_family(report, figures=(false,)))


def test_a_family_without_an_embedding_is_refused(report: Report) -> None:
    metrics = report.families[0].metrics
    bare = metrics.model_copy(update={"features": {"pixels": metrics.features["pixels"]}})
    with pytest.raises(ReportError, match="gan: none of the 1 representations measured is nfk-K"):
        render(with_family(report, metrics=bare))


def test_a_family_may_be_there_once(report: Report) -> None:
    with pytest.raises(ValueError, match="'gan' is there 2 times"):
        Report(**{**dict(report), "families": report.families + report.families[:1]})


@pytest.mark.parametrize(("shown", "expected"), [
    (numbers.percent(0.95049), "95.0"), (numbers.percent(1.0), "100.0"),
    (numbers.with_error(0.9505, 0.00685), "95.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.7"),
    (numbers.points(0.0376), "+3.8"), (numbers.points(-0.0376), "−3.8"), (numbers.points(-0.0001), "0.0"),
    (numbers.count(16871), "16,871"),
    (numbers.seconds(0.482), "0.48 s"), (numbers.seconds(59.94), "59.9 s"),
    (numbers.seconds(59.96), "1 min 00 s"), (numbers.seconds(245.3), "4 min 05 s"),
    (numbers.seconds(3599.6), "1 h 00 min"), (numbers.seconds(4500.0), "1 h 15 min"),
    (numbers.number(True), "yes"), (numbers.number(3500), "3,500"), (numbers.number(0.83421), "0.8342"),
    (numbers.number(-2.5), "−2.5"), (numbers.number(2.13e-5), "2.1 × 10⁻⁵"),
    (numbers.number(float("nan")), "nan"), (numbers.number(0.0), "0"), (numbers.number("EMA"), "EMA"),
    (numbers.scientific(-3e12), "−3.0 × 10¹²"),
])
def test_numbers_are_written_one_way(shown: str, expected: str) -> None:
    assert shown == expected
