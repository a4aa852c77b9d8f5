"""Drawings of magnitudes and of quality against sparsity: everything stands where its number says, and odd numbers stand nowhere."""

from __future__ import annotations

import re
from dataclasses import replace

from effc.report import Graph, Layer, Magnitudes, Prediction, QualityCurve, QualityPoint, Report, Spread, render
from effc.report.curve_svg import draw_curve
from effc.report.density_svg import draw_magnitudes

EVIL = "<script>alert(1)</script>\"'&\x1b[31m"
BEFORE, AFTER = Spread(0.75, 4.0, (0.5, 0.25)), Spread(0.25, 4.0, (0.0, 0.25))
CURVE = QualityCurve(
    name="teal{max-drop=0.1}",
    metric="top1",
    before=1.0,
    larger_is_better=True,
    max_drop=0.1,
    samples=20,
    points=(
        QualityPoint(0.0, 1.0, 1.0, True),
        QualityPoint(0.5, 0.5, 0.95, False, kept=True),
        QualityPoint(0.9, 0.0, 0.1, True),
    ),
)


def page(**parts: object) -> str:
    return render(replace(Report("net", (), Graph(()), Graph(())), **parts)).decode()  # type: ignore[arg-type]


class TestMagnitudes:
    def test_bars_zeros_and_threshold(self) -> None:
        drawn = draw_magnitudes(Magnitudes("layer", "", BEFORE, AFTER, (2.0, 2.0)))
        # the frame is 64 high on a base at 72, the axis runs from 48 to 222 for 0 to 4
        assert '<path d="M48 72V8.0H135.0V40.0H222.0V72z" class="dropped">' in drawn
        assert '<path d="M48 72V72.0H135.0V40.0H222.0V72z" class="seen">' in drawn
        assert '<rect x="14" y="24.0" width="14" height="48.0" class="dropped"><title>75.00% zero after</title>' in drawn
        assert '<rect x="14" y="56.0" width="14" height="16.0" class="nought"><title>25.00% zero by themselves</title>' in drawn
        assert '<line x1="135.0" y1="4" x2="135.0" y2="72" class="bound thin"><title>threshold 2</title>' in drawn
        assert 'class="band"' not in drawn

    def test_bins_of_another_width_are_as_tall_as_they_are_dense(self) -> None:
        """Half the elements in [0, 2) are 0.25 a unit; the quarter in [0, 1) of a finer histogram is as tall."""
        drawn = draw_magnitudes(Magnitudes("layer", "", BEFORE, Spread(0.25, 1.0, (0.25,))))
        assert 'd="M48 72V8.0H91.5V72z" class="seen"' in drawn

    def test_thresholds_by_input_are_a_band_and_end_with_the_axis(self) -> None:
        drawn = draw_magnitudes(Magnitudes("layer", "", BEFORE, AFTER, (1.0, 100.0)))
        assert '<rect x="91.5" y="4" width="130.5" height="68" class="band"><title>threshold 1 to 100</title>' in drawn
        assert 'x1="222.0"' in drawn

    def test_without_anything_to_draw(self) -> None:
        nothing = draw_magnitudes(Magnitudes("zeros", "", Spread(0.0, 0.0, ()), None, (1.0, 1.0)))
        assert "<path" not in nothing and 'height="64.0" class="nought"' in nothing
        assert draw_magnitudes(Magnitudes("unknown", "", None)).startswith("<svg")

    def test_in_words(self) -> None:
        assert Magnitudes("a", "", BEFORE, AFTER, (0.5, 0.5)).words == "density 75.0% → 25.0%, threshold 0.5"
        assert Magnitudes("a", "", BEFORE, AFTER, (-1.0, 0.5)).words == "density 75.0% → 25.0%, thresholds -1 to 0.5"
        assert Magnitudes("a", "", BEFORE).words == "density 75.0%"
        assert Magnitudes("a", "", None, AFTER).words == "density 25.0%"

    def test_many_are_folded_up_by_block(self) -> None:
        few = [Magnitudes(f"h.{index}", f"h.{index // 4}", BEFORE, AFTER) for index in range(12)]
        assert "<details>" not in page(magnitudes=tuple(few))
        many = page(magnitudes=(*few, Magnitudes("embed", "", Spread(0.5, 1.0, (0.5,)))))
        assert re.findall(r"<summary><code>(.*?)</code><span>(.*?)</span>", many) == [
            *((f"h.{index}", "4 values") for index in range(3)),
            ("other layers", "1 value"),
        ]
        assert "density 25% to 25%" in many and "density 50% to 50%" in many

    def test_in_a_group_names_lose_what_the_group_says(self) -> None:
        assert Magnitudes("h.1.mlp.up", "h.1", BEFORE).short == "mlp.up"
        assert Magnitudes("/h.1/mlp/up", "/h.1", BEFORE).short == "mlp/up"
        assert Magnitudes("h.1", "h.1", BEFORE).short == "h.1"


class TestCurve:
    def test_points_budget_and_what_is_kept(self) -> None:
        drawn = draw_curve(CURVE)
        # zeros: 0 to 100 % from 64 to 424; metric: 0.89 to 1.01 from 206 up to 30
        assert '<circle cx="64.0" cy="44.7" r="3.5" class="even"><title>0.0% zeros: top1 1.0000</title>' in drawn
        assert '<circle cx="244.0" cy="118.0" r="3.5" class="uneven">' in drawn
        assert '<circle cx="244.0" cy="118.0" r="7" class="kept"/>' in drawn and drawn.count('class="kept"') == 1
        assert '<line x1="64" y1="191.3" x2="424" y2="191.3" class="budget"/>' in drawn
        assert '<path d="M420.0 200.0H428.0L424.0 206.0z" class="even"><title>100.0% zeros: top1 0.1000</title>' in drawn
        assert '<polyline points="64.0,44.7 424.0,206.0" class="trend"/>' in drawn
        assert "top1 (share of samples)" in drawn and "zeros, measured (%)" in drawn

    def test_a_metric_that_rises(self) -> None:
        rising = replace(CURVE, metric="perplexity", before=6.0, larger_is_better=False, points=(QualityPoint(0.3, 0.7, 6.05, True),))
        assert rising.budget == 6.1
        assert rising.loss(rising.points[0]) == "0.05" and rising.loss_name == "rise"
        far = replace(rising, points=(QualityPoint(0.3, 0.7, 900.0, True),))
        assert "L64.0 30.0z" in draw_curve(replace(far, points=(*far.points, QualityPoint(0.9, 0.1, 6.0, True))))

    def test_what_is_not_finite_is_left_out_and_said(self) -> None:
        broken = replace(CURVE, before=None, max_drop=None, points=(QualityPoint(0.5, 0.5, None, True),))
        assert "<circle" not in draw_curve(broken) and "nan" not in draw_curve(broken)
        text = page(curves=(broken, replace(CURVE, max_drop=0.0), replace(CURVE, points=())))
        assert "not finite" in text and "any loss accepted" in text and "nothing was measured" in text

    def test_equal_values_have_an_axis(self) -> None:
        flat = replace(CURVE, max_drop=0.0, before=0.0, points=(QualityPoint(0.5, 0.5, 0.0, True),))
        assert 'cy="118.0"' in draw_curve(flat)

    def test_the_table_beneath(self) -> None:
        text = page(curves=(CURVE,))
        cells = re.findall(r"<td[^>]*>(.*?)</td>", text[text.index("zeros asked for") :])
        assert cells[5:9] == ["50.0%", "50.0%", "0.9500", "0.0500"] and "kept" in cells[9] and "layer by layer" in cells[9]
        assert "kept 50.0% zeros with 0.9500, from 1.0000." in text


def test_predicted_stands_beside_measured_only_where_something_is_predicted() -> None:
    plain = Layer("a", "mm", "matmul", 10, 20, 70e3)
    skips = replace(plain, family="skipping", predicted=Prediction(0.4, 0.4, 4096, 60e3, 149e3, True))
    dense = replace(plain, predicted=Prediction(0.9, 0.9, 4096, 160e3, 149e3, False))
    text = page(layers=(plain, skips, dense))
    assert '60.0 <span class="muted">dense 149.0</span>' in text
    assert '149.0 <span class="muted">skipping 160.0</span>' in text
    assert "predicted" not in page(layers=(plain,)).partition("<body>")[2]


def test_what_models_and_users_say_stays_text() -> None:
    curve = replace(CURVE, name=EVIL, metric=EVIL)
    text = page(curves=(curve,), magnitudes=tuple(Magnitudes(EVIL, EVIL, BEFORE) for _ in range(13)))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r'="[^"]*<script', text)
