import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from scan_lightning.reports.drawing import make_figure, read_drawing, source_of
from scan_lightning.reports.figures import COLOURS, INK, drawing_style, read_source, save_figure
from scan_lightning.reports.layer_map import layers_of
from scan_lightning.reports.layout import load_layout
from scan_lightning.reports.report import Report
from tests.reports.made_up import LAYOUT, make_row, write_all, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_all(folder)
    return folder


@pytest.fixture(scope="module")
def report(rows: Path) -> Report:
    return Report(layout=load_layout(LAYOUT), folder=rows)


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with drawing_style():
        yield


def draw(name: str, report: Report) -> Figure:
    return make_figure(read_drawing(name, report), report)


def render(figure: Figure) -> Any:
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    return renderer


def test_every_plot_of_the_layout_is_drawn_within_its_figure(report: Report) -> None:
    for name in report.layout.plots:
        figure = draw(name, report)
        box = figure.get_tightbbox(render(figure))
        width, height = figure.get_size_inches()
        inside = min(box.x0, box.y0) > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01
        assert inside, f"{name} is cut off: {box} of {width} x {height}"


def test_curve_shows_mean_band_and_every_seed(report: Report) -> None:
    groups = report.groups("cs_ratio")
    figure = draw("cs_ratio", report)
    assert [axes.get_title() for axes in figure.axes] == [
        "mIoU (any), %",
        "mIoU (any) of seen classes, %",
        "mIoU (any) of unseen classes, %",
    ]
    axes = figure.axes[2]
    dots = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert len(dots) == 3
    expected = [[100 * group.by_seed("miou_unseen")[seed] for group in groups] for seed in ("0", "1", "2")]
    assert np.allclose([line.get_ydata() for line in dots], expected)
    (mean,) = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_linewidth() > 1]
    assert np.allclose(mean.get_ydata(), np.mean(expected, axis=0))
    assert np.allclose(mean.get_xdata(), [0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    deviation = np.std(expected, axis=0, ddof=1)
    assert corners[:, 1].max() == pytest.approx((np.mean(expected, axis=0) + deviation).max())


def test_panels_of_a_curve_span_equally_many_points(report: Report) -> None:
    spans = [np.diff(axes.get_ylim())[0] for axes in draw("ensemble_weight", report).axes]
    assert len(spans) == 3
    assert np.allclose(spans, spans[0])


def test_curve_of_a_pivot_names_its_lines_apart_and_leaves_all_out(report: Report) -> None:
    figure = draw("domain", report)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.0-0.2", "0.2-0.4", "0.4-0.6"]
    names = [child for child in axes.texts if isinstance(child, Annotation)]
    assert {name.get_text(): name.get_color() for name in names} == {
        "whole box": COLOURS[0],
        "masked": COLOURS[1],
        "CS": COLOURS[2],
    }
    renderer = render(figure)
    boxes = [name.get_window_extent(renderer) for name in names]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_layers_are_dots_beside_differences_from_the_baseline(report: Report) -> None:
    groups = {group.label: group for group in report.groups("cs_layers")}
    matrix, differences = draw("cs_layers", report).axes
    rows = [text.get_text() for text in matrix.get_yticklabels()]
    assert rows == list(groups)
    used = [matrix.collections[2 * index + 1].get_offsets()[:, 0].tolist() for index in range(len(rows))]
    assert used[rows.index("last 3")] == [4, 5, 6]
    assert used[rows.index("none")] == []
    texts = [text.get_text() for text in differences.texts]
    index = 4 * rows.index("odd")
    paired = groups["odd"].difference(groups["none"], "miou_any").values()
    mean, deviation = np.mean(list(paired)), np.std(list(paired), ddof=1)
    assert texts[index] == f"{100 * mean:+.1f} ± {100 * deviation:.1f}"
    own = groups["none"].by_seed("miou_any").values()
    assert texts[4 * rows.index("none")].startswith(f"{100 * np.mean(list(own)):.1f} ± ")


def test_layers_colour_better_purple_also_where_less_is_better(tmp_path: Path) -> None:
    key = "model.init_args.inference.replace_layers"
    made = [
        make_row("q", seed, {key: layers}, name, miou_any=0.5 + up + seed / 100, unseen_to_seen=0.3 - up + seed / 100)
        for seed in (0, 1)
        for name, layers, up in (("none", [], 0), ("up", [1], 0.1), ("down", [2], -0.1))
    ]
    write_rows(tmp_path / "cs_layers.csv", made)
    _, differences = draw("cs_layers", Report(layout=load_layout(LAYOUT), folder=tmp_path)).axes
    (image,) = differences.images
    assert np.allclose(image.get_array(), [[0, 0], [1, 1], [-1, -1]])


def test_layers_show_a_dash_where_no_seed_is_shared(tmp_path: Path) -> None:
    key = "model.init_args.inference.replace_layers"
    made = [
        make_row("q", seed, {key: layers}, name, miou_any=0.5 + seed / 100, miou_seen=0.5, miou_unseen=0.5)
        for name, layers, seeds in (("none", [], (0, 1)), ("other", [1], (1, 2)), ("late", [2], (3,)))
        for seed in seeds
    ]
    write_rows(tmp_path / "cs_layers.csv", made)
    _, differences = draw("cs_layers", Report(layout=load_layout(LAYOUT), folder=tmp_path)).axes
    dashes = [text for text in differences.texts if text.get_text() == "-"]
    assert len(dashes) == 3
    assert {text.get_color() for text in dashes} == {INK}


def test_layers_need_a_list_of_layers(report: Report) -> None:
    (group, *_) = report.groups("cs_ratio")
    with pytest.raises(ValueError, match=r"0: a\.b: expected a list of layers, got None"):
        layers_of(group, "a.b")


def test_scatter_labels_cover_neither_points_nor_one_another(report: Report) -> None:
    figure = draw("seen_unseen", report)
    renderer = render(figure)
    (axes,) = figure.axes
    names = [child for child in axes.texts if isinstance(child, Annotation) and child.arrow_patch is not None]
    assert len(names) == 22
    patches = [name.get_bbox_patch().get_window_extent(renderer) for name in names]
    assert not any(
        one.shrunk(0.8, 0.8).overlaps(other.shrunk(0.8, 0.8)) for one, other in itertools.combinations(patches, 2)
    )
    points = [axes.transData.transform(name.xy) for name in names]
    assert not any(patch.shrunk(0.8, 0.8).contains(*point) for patch in patches for point in points)


def test_scatter_level_lines_have_that_harmonic_mean(report: Report) -> None:
    (axes,) = draw("seen_unseen", report).axes
    levels = [float(text.get_text()) for text in axes.texts if text.get_text().replace(".", "").isdigit()]
    curves = [line for line in axes.lines if len(line.get_xdata()) == 400]
    assert len(curves) >= len(levels) >= 3
    x, y = (np.asarray(values)[200] for values in curves[0].get_data())
    assert min(abs(2 * x * y / (x + y) - level) for level in levels) < 0.5 * (levels[1] - levels[0])
    spread = [np.ptp(2 * xs * ys / (xs + ys)) for xs, ys in (line.get_data() for line in curves)]
    assert max(spread) < 1e-9


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_equal_rows_give_equal_files_that_say_what_they_are_of(report: Report, tmp_path: Path, suffix: str) -> None:
    drawing = read_drawing("cs_ratio", report)
    paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for path in paths:
        save_figure(make_figure(drawing, report), path, source_of(drawing, report))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert read_source(paths[0]) == source_of(drawing, report)
    assert b"<dc:date>" not in paths[0].read_bytes()


def test_source_follows_values_and_layout(report: Report, rows: Path, tmp_path: Path) -> None:
    drawing = read_drawing("cs_ratio", report)
    before = source_of(drawing, report)
    changed = (rows / "cs_ratio.csv").read_text(encoding="utf-8").replace(",0.5", ",0.6", 1)
    (tmp_path / "cs_ratio.csv").write_text(changed, encoding="utf-8")
    other = Report(layout=report.layout, folder=tmp_path)
    assert source_of(read_drawing("cs_ratio", other), other) != before
    assert source_of(read_drawing("cs_ratio", report), report) == before
    assert source_of(read_drawing("mask_threshold", report), report) != before
    renamed = replace(report.layout.tables["cs_ratio"], title="Another title")
    layout = replace(report.layout, tables={**report.layout.tables, "cs_ratio": renamed})
    assert source_of(drawing, Report(layout=layout, folder=rows)) != before


def test_source_of_a_file_that_is_not_of_this_command(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text("<svg/>", encoding="utf-8")
    assert read_source(path) == ""
