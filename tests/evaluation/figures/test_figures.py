"""Figures hold the numbers they were given, and become PNG files of their size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from nfk.evaluation.components import Extremes
from nfk.evaluation.figures import accuracy, images, spectrum, style, training
from nfk.evaluation.figures.names import called

RNG = np.random.default_rng(0)


def feature(value, dimension=128):
    probe = {"accuracy": value, "standard_error": 0.01}
    return {"dimension": dimension, "logistic": probe, "squared_hinge": {**probe, "accuracy": value - 0.02},
            "knn": {**probe, "accuracy": value - 0.05},
            "few_labels": {"100": {"mean": value - 0.2, "standard_deviation": 0.03},
                           "1000": {"mean": value - 0.1, "standard_deviation": 0.01}}}


FEATURES = {"nfk-128": feature(0.95), "nfk-16": feature(0.87, 16), "pca-16": feature(0.8, 16),
            "pca-128": feature(0.91), "full-fisher-vector": feature(0.96, 17000), "activations-all": feature(0.97),
            "activations-all-pca-128": feature(0.94), "pixels": feature(0.9, 784)}


def line(axes, label):
    [found] = [line for container in axes.containers if container.get_label() == label
               for line in [container.lines[0]]] or [line for line in axes.lines if line.get_label() == label]
    return found


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture(autouse=True)
def settings_untouched():
    before = dict(rcParams)
    yield
    assert dict(rcParams) == before


def test_accuracy_against_components_holds_both_series_and_the_references():
    [axes] = accuracy.accuracy_against_components(FEATURES).axes
    np.testing.assert_allclose(line(axes, "NFK").get_xydata(), [[16, 87], [128, 95]])
    np.testing.assert_allclose(line(axes, "PCA of pixels").get_xydata(), [[16, 80], [128, 91]])
    np.testing.assert_allclose(line(axes, "full Fisher vector").get_xydata()[:, 1], 96)
    np.testing.assert_allclose(line(axes, "pixels").get_xydata()[:, 1], 90)
    bars = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in bars], [[86, 88], [94, 96]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["16", "128"]
    assert "NFK  95.0" in texts(axes) and "all activations  97.0" in texts(axes)
    hinge = accuracy.accuracy_against_components(FEATURES, "squared_hinge").axes[0]
    np.testing.assert_allclose(line(hinge, "NFK").get_xydata()[:, 1], [85, 93])


def test_accuracy_against_components_refuses_features_without_any():
    with pytest.raises(ValueError, match=r"no features named nfk-K or pca-K among \['pixels'\]"):
        accuracy.accuracy_against_components({"pixels": feature(0.9)})


def test_few_labels_have_a_line_for_each_name_with_standard_deviations():
    [axes] = accuracy.accuracy_from_few_labels(FEATURES, ["nfk-128", "pca-128"]).axes
    np.testing.assert_allclose(line(axes, "NFK 128").get_xydata()[:, 1], [75, 85])
    np.testing.assert_allclose(line(axes, "NFK 128").get_xydata()[:, 0], [100, 1000], rtol=0.05)
    segments = axes.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose([np.ptp(segment[:, 1]) / 2 for segment in segments], [3, 1])
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "1,000"]
    with pytest.raises(ValueError, match="8 lines cannot be told apart; choose at most 7"):
        accuracy.accuracy_from_few_labels(FEATURES, list(FEATURES))


def test_probe_accuracies_are_sorted_by_the_logistic_probe():
    [axes] = accuracy.probe_accuracies(FEATURES).axes
    logistic = line(axes, "logistic").get_xydata()[:, 0]
    assert list(logistic) == sorted(logistic)
    assert len(logistic) == len(FEATURES)
    assert axes.get_yticklabels()[-1].get_text() == "all activations  (128)"
    np.testing.assert_allclose(line(axes, "nearest neighbours").get_xydata()[:, 0], logistic - 5)


def test_confusion_counts_are_written_in_their_cells():
    figure = accuracy.confusion(np.array([0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, 2]), ["ant", "bee", "cat"])
    [axes] = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1", (1, 1): "1", (0, 2): "1", (1, 2): "1", (2, 2): "1"}
    np.testing.assert_allclose(axes.images[0].get_array()[2], [1 / 3, 1 / 3, 1 / 3])
    assert axes.get_title("left") == "Test images: 3 of 5 right"


def test_spectrum_draws_the_curves_there_are():
    curves = {"components": [1, 10, 100], "trained": [0.5, 0.8, 1.0], "untrained": [0.1, 0.5, 1.0],
              "trained_uncentred": [0.9, 0.95, 1.0], "untrained_uncentred": []}
    [axes] = spectrum.explained_variance(curves).axes
    np.testing.assert_allclose(line(axes, "trained").get_xydata(), [[1, 50], [10, 80], [100, 100]])
    np.testing.assert_allclose(line(axes, "trained, uncentred").get_xydata()[:, 1], [90, 95, 100])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "trained", "untrained", "trained, uncentred"]


def test_spectrum_shades_the_range_of_the_untrained():
    draws = [[0.1, 0.4, 1.0], [0.2, 0.6, 1.0]]
    [axes] = spectrum.explained_variance({"components": [1, 10, 100], "trained": [0.5, 0.8, 1.0],
                                          "untrained": [0.15, 0.5, 1.0], "untrained_draws": draws}).axes
    [band] = axes.collections
    assert band.get_label() == "untrained, 2 initialisations"
    heights = {tuple(corner) for corner in band.get_paths()[0].vertices.round(6).tolist()}
    assert {(10.0, 40.0), (10.0, 60.0)} <= heights


def test_singular_values_and_residuals_share_the_modes():
    upper, lower = spectrum.singular_values(np.array([9.0, 4.0, 1.0]), np.array([0.0, 1e-6, 1e-4]), 1e-3).axes
    np.testing.assert_allclose(upper.lines[0].get_xydata(), [[1, 9], [2, 4], [3, 1]])
    np.testing.assert_allclose(lower.lines[0].get_ydata()[1:], [1e-6, 1e-4])
    np.testing.assert_allclose(lower.lines[1].get_ydata(), 1e-3)
    assert texts(lower) == ["tolerance"]
    assert len(spectrum.singular_values(np.ones(2), np.ones(2)).axes[1].lines) == 1


def corners(image):
    """Left and top of an image, in inches."""
    left, _, _, top = image.get_extent()
    return left, top


def test_samples_are_in_reading_order():
    given = RNG.uniform(size=(5, 4, 4, 1)).astype(np.float32)
    [axes] = images.samples(given, columns=3).axes
    np.testing.assert_allclose([image.get_array() for image in axes.images], given[..., 0])
    places = [tuple(np.round(np.subtract(corners(image), corners(axes.images[0])) / images.CELL, 6))
              for image in axes.images]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]


def test_colour_images_stay_coloured_and_in_proportion():
    given = RNG.uniform(size=(2, 4, 8, 3)).astype(np.float32)
    [shown, _] = images.samples(given).axes[0].images
    assert shown.get_array().shape == (4, 8, 3)
    left, right, bottom, top = shown.get_extent()
    assert right - left == pytest.approx(2 * (bottom - top))


def test_component_ends_show_the_chosen_images():
    given = RNG.uniform(size=(9, 4, 4, 1)).astype(np.float32)
    ends = Extremes(largest=np.array([[0, 1], [2, 3]]), smallest=np.array([[4, 5], [6, 7]]))
    [axes] = images.component_ends(given, ends).axes
    shown = [image.get_array() for image in axes.images]
    np.testing.assert_allclose(shown, given[[0, 1, 4, 5, 2, 3, 6, 7], ..., 0])
    assert texts(axes) == ["Component 1", "Component 2", "Largest projections", "Most negative projections"]
    lefts, tops = np.transpose([corners(image) for image in axes.images])
    assert np.all(np.diff(lefts.reshape(2, 4)) > 0.5)
    np.testing.assert_allclose(tops, np.repeat([tops[0], tops[0] + images.CELL], 4))


def test_neighbours_of_another_class_are_marked():
    queries, found = RNG.uniform(size=(2, 4, 4, 1)), RNG.uniform(size=(2, 3, 4, 4, 1))
    figure = images.neighbours(queries, np.array([0, 1]), found, np.array([[0, 1, 0], [1, 1, 1]]), ["ant", "bee"])
    [axes] = figure.axes
    assert texts(axes) == ["ant", "ant", "bee ×", "ant", "bee", "bee", "bee", "bee"]
    np.testing.assert_allclose(axes.images[2].get_array(), found[0, 1, ..., 0])
    assert [frame.get_linewidth() > 1 for frame in axes.patches] == [False, False, True, *[False] * 5]
    assert "83 % of its class" in figure.get_suptitle()


@pytest.mark.parametrize("name", ["a grasshopper", "WWWWWWWWWW", "an animal with a very, very long name", ""])
@pytest.mark.parametrize("each", [1, 2])
def test_long_names_beside_each_other_do_not_collide(name, each):
    one = RNG.uniform(size=(1, 4, 4, 1))
    figure = images.neighbours(one, np.array([0]), np.repeat(one[None], each, axis=1), np.ones((1, each), int),
                               ["ant", name, "one of nobody's, whose name takes no room, however long it is"])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in (*figure.axes[0].texts, figure._suptitle)]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes[:-1]))
    assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= figure.bbox.x1
    assert figure.get_figwidth() < 1.5 * (each + 1.3) + 3


@pytest.mark.parametrize("each", [1, 2, 8])
def test_titles_of_component_ends_neither_meet_nor_leave_the_page(each):
    given = RNG.uniform(size=(2 * each, 4, 4, 1))
    some = np.arange(2 * each).reshape(1, -1)
    figure = images.component_ends(given, Extremes(largest=some[:, :each], smallest=some[:, each:]))
    figure.draw_without_rendering()
    name, first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert name.x0 >= 0 and first.x1 < second.x0 and second.x1 <= figure.bbox.x1


def test_names_stand_over_the_middle_of_images_that_are_not_square():
    given = RNG.uniform(size=(1, 10, 40, 1))
    [axes] = images.neighbours(given, np.array([0]), given[None], np.array([[0]]), ["ant", "bee"]).axes
    for image, name in zip(axes.images, axes.texts, strict=True):
        assert np.mean(image.get_extent()[:2]) == pytest.approx(name.get_position()[0])
    [row] = images.labelled_rows({"some": given}).axes
    assert np.mean(row.images[0].get_extent()[2:]) == pytest.approx(row.texts[0].get_position()[1])


def test_training_curves_of_one_quantity_share_a_panel():
    figure = training.training_curves({"loss": [3.0, 2.0], "validation_loss": [4.0, 3.0], "accuracy": [0.1, 0.2]})
    loss, share = figure.axes
    np.testing.assert_allclose(line(loss, "training").get_xydata(), [[1, 3], [2, 2]])
    np.testing.assert_allclose(line(loss, "validation").get_xydata()[:, 1], [4, 3])
    assert (loss.get_title("left"), share.get_title("left")) == ("Loss", "Accuracy")
    with pytest.raises(ValueError, match="history is empty"):
        training.training_curves({})


def test_saved_figures_are_png_of_their_size_and_repeat_byte_for_byte(tmp_path):
    paths = [tmp_path / "made" / name for name in ("a.png", "b.png")]
    for path in paths:
        style.save(accuracy.accuracy_against_components(FEATURES), path)
    with Image.open(paths[0]) as picture:
        assert picture.format == "PNG"
        assert picture.size == (round(6.8 * style.DOTS_PER_INCH), round(4.1 * style.DOTS_PER_INCH))
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 50  # something is drawn
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_labels_at_the_ends_do_not_collide():
    figure = style.new_figure(6.0, 4.0)
    axes = figure.subplots()
    axes.set_ylim(0, 100)
    style.label_ends(axes, [style.End(height, f"line {height}", style.BLUE)
                            for height in (50.0, 50.1, 50.2, 99.0, 10.0)])
    heights = sorted(text.xyann[1] for text in axes.texts)
    assert min(np.diff(heights)) > 4
    placed = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert placed["line 50.0"] < placed["line 50.1"] < placed["line 50.2"]
    assert placed["line 50.1"] == pytest.approx(50.1)
    assert (placed["line 10.0"], placed["line 99.0"]) == (10, 99)


@pytest.mark.parametrize(("key", "words"), [
    ("nfk-128", "NFK 128"), ("activations-all-pca-64", "all activations, PCA 64"),
    ("activations-conv1", "activations, conv1"), ("latent-mean", "latent mean")])
def test_names_are_written_out(key, words):
    assert called(key) == words
