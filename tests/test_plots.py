"""Figures: what they show is what the queries say, and what they are written to is whole, safe and as wide as asked for."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

import layerhouse as lh
from layerhouse import demo
from layerhouse.errors import NotFoundError, UsageError
from layerhouse.escapes import visible
from layerhouse.terminal.plot import file_names
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_cli import run_on_terminal
from layerhouse.tests.test_light import BLOCKER
from layerhouse.warehouse.answers.figures.kinds import FIGURES
from layerhouse.warehouse.render.kinds import NUMBER, PPL, RATIO
from layerhouse.warehouse.render.plots import rendering
from layerhouse.warehouse.render.plots.cells import hatch
from layerhouse.warehouse.render.plots.heat import heat_map
from layerhouse.warehouse.render.plots.labels import place_labels
from layerhouse.warehouse.render.plots.layers import layer_bars
from layerhouse.warehouse.render.plots.look import Look, Width
from layerhouse.warehouse.render.plots.plot import FIGURE_FORMATS, MIME_TYPE, Plot
from layerhouse.warehouse.render.plots.roles import role_map
from layerhouse.warehouse.render.plots.spectra import spectral_lines
from layerhouse.warehouse.render.plots.tasks import task_grid
from layerhouse.warehouse.render.plots.text_width import cut, cut_apart, text_width, wrap
from layerhouse.warehouse.render.plots.ticks import Axis
from layerhouse.warehouse.render.plots.tradeoff import column_scatter, trade_off
from layerhouse.warehouse.render.plots.units import unit_panels
from layerhouse.warehouse.render.plots.words import WORDS

PUBLISHED = Path(__file__).parents[2] / "shared/data/llama3-8b"
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "a\u2028b\u202ec\x00d\ufffee",
    "datum.x'];\"\\",
    "long" * 60,
    "=HYPERLINK(1)",
    "]]>&amp;{{1}}",
)
KINDS = {
    "layers": ("results/HeadPrune_2000",),
    "heat": (),
    "roles": ("results/HeadPrune_2000",),
    "tradeoff": (),
    "tasks": (),
    "units": ("results/HeadPrune_2000",),
    "speed": (),
    "spectra": (),
}
"""The models of a figure of each kind."""


@functools.cache
def validator():
    """The schema of Vega-Lite, as altair ships it; altair itself is not imported, as that takes seconds."""
    folder = Path(importlib.util.find_spec("altair").origin).parent
    schema = json.loads((folder / "vegalite/v6/schema/vega-lite-schema.json").read_text("utf-8"))
    return jsonschema.Draft7Validator(schema)


def is_valid(spec):
    return validator().is_valid(json.loads(rendering.spec_text(spec)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The demo's study with its units and spectra."""
    folder = tmp_path_factory.mktemp("plots")
    demo.write_study(folder)
    roots, warehouse = [folder / "baselines", folder / "results"], folder / "layerhouse-data"
    lh.ingest(roots, warehouse=warehouse, base=folder / demo.BASE, units=True, stats="spectral")
    return folder


@pytest.fixture(scope="module")
def wh(study):
    with lh.open(study / "layerhouse-data") as opened:
        yield opened


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    if not PUBLISHED.is_dir():
        pytest.skip("the shared study is not here")
    warehouse = tmp_path_factory.mktemp("published") / "w"
    lh.ingest([PUBLISHED / "baselines", PUBLISHED / "results"], warehouse=warehouse)
    return warehouse


def texts(svg):
    """The texts of an SVG, in order."""
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def data_of(spec, field):
    """The values of a field in all data of a specification."""
    return [
        row[field]
        for layer in spec.get("layer", [spec])
        for row in layer.get("data", {}).get("values", [])
        if row.get(field) is not None
    ]


# What figures show


def test_bars_show_the_mean_with_embedded_fonts_and_no_pixels(published, tmp_path):
    result = layerhouse("plot", "layers", "results/HGSP_2000", "-w", published, "-o", tmp_path / "a.pdf")
    assert (result.returncode, result.stderr) == (0, f"wrote {tmp_path / 'a.pdf'}\n")
    page = pypdf.PdfReader(tmp_path / "a.pdf").pages[0]
    assert list(page.images) == []
    fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
    assert fonts
    for font in fonts:
        described = [inner.get_object()["/FontDescriptor"].get_object() for inner in font["/DescendantFonts"]]
        assert all(any(key.startswith("/FontFile") for key in descriptor) for descriptor in described)
    with lh.open(published) as opened:
        mean = opened.query("summary", models=["HGSP_2000"])["kept_layer_mean"].item()
    assert f"mean {100 * mean:.1f}%" == "mean 77.0%"
    assert "mean 77.0%" in page.extract_text()


def test_bars_have_the_numbers_of_the_layers(published):
    with lh.open(published) as opened:
        rows = opened.query("per_layer", models=["HGSP_2000"]).to_dicts()
        spec = opened.plot("layers", "HGSP_2000").spec
        pair = opened.plot("layers", "HGSP_2000", measure="retention,reduction").spec
    bars = spec["layer"][0]["data"]["values"]
    assert [(bar["block"], bar["value"]) for bar in bars] == [(str(row["base_layer_index"]), row["kept_share"]) for row in rows]
    gone = pair["vconcat"][1]["layer"][0]["data"]["values"]
    assert [bar["value"] for bar in gone] == [1 - row["kept_share"] for row in rows]
    assert [sum(text == word for text in texts(rendering.draw_svg(pair, 700))) for word in ("mean 77.0%", "mean 23.0%")] == [
        1,
        1,
    ]


def test_removed_blocks_are_hatched_and_unknown_ones_are_a_sentence(published):
    with lh.open(published) as opened:
        plot = opened.plot("heat")
    hatched = [layer for layer in plot.spec["layer"] if layer["mark"]["type"] == "point"]
    assert len(hatched) == 1
    cells = [(cell["row"], cell["block"]) for cell in hatched[0]["data"]["values"]]
    assert cells == [("ShortGPT_remove_7", str(block)) for block in range(22, 29)]
    svg = plot.svg()
    assert svg.count('aria-roledescription="point"') == 7
    assert "4 of 32 blocks removed, no file says which" in texts(svg)
    assert [
        row for layer in plot.spec["layer"][:1] for row in layer["data"]["values"] if row["row"] == "ShortGPT_remove_4"
    ] == []


def test_a_narrow_heat_map_has_the_sentence_in_a_note(published):
    with lh.open(published) as opened:
        spec = opened.plot("heat", width="150pt").spec
    assert "ShortGPT_remove_4: 4 of 32 blocks removed, no file says which." in " ".join(spec["title"]["text"])


@pytest.mark.parametrize("measure", ["mean_accuracy", "wikitext2", "ppl_ptb"])
def test_points_are_those_of_the_query(wh, published, measure):
    for opened in (wh, lh.open(published)):
        rows = [row for row in opened.query("trade_off").to_dicts() if row["measure"].startswith(measure.removeprefix("ppl_"))]
        spec = opened.plot("tradeoff", measure=measure, label="all").spec
        points = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "point")["data"]["values"]
        names = opened.models()["model_id"].to_list()
        shown = [(point["x"], point["y"], point["front"]) for point in points]
        assert shown == [(row["kept_share"], row["value"], row["is_on_front"]) for row in rows]
        assert [next(name for name in names if name.endswith(point["model"])) for point in points] == [
            row["model_id"] for row in rows
        ]


def test_the_front_joins_the_points_on_it(wh):
    spec = wh.plot("tradeoff").spec
    lines = [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]
    front = sorted(
        (row["kept_share"], row["value"])
        for row in wh.query("trade_off").to_dicts()
        if row["is_on_front"] and row["measure"] == "mean_accuracy"
    )
    assert [(row["x"], row["y"]) for row in lines[0]["data"]["values"]] == front
    assert lines[0]["mark"]["interpolate"] == "step-after"


def test_labels_are_of_the_front_of_all_or_of_none(wh):
    counts = {}
    for label in ("front", "all", "none"):
        spec = wh.plot("tradeoff", label=label).spec
        counts[label] = sum(len(layer["data"]["values"]) for layer in spec["layer"] if layer["mark"]["type"] == "text")
    rows = [row for row in wh.query("trade_off").to_dicts() if row["measure"] == "mean_accuracy"]
    assert counts == {"front": sum(row["is_on_front"] for row in rows), "all": len(rows), "none": 0}
    assert counts["front"] < counts["all"]


def test_tasks_are_differences_in_points_and_those_beyond_two_errors_have_a_star(published):
    with lh.open(published) as opened:
        plot = opened.plot("tasks")
        scores = dict(opened.query("performance")[["model_id", "boolq"]].rows())
    cell = next(row for row in plot.spec["layer"][0]["data"]["values"] if (row["row"], row["task"]) == ("HGSP_2000", "BoolQ"))
    assert cell["value"] == pytest.approx(100 * (scores["results/HGSP_2000"] - scores["baselines/Llama-3-8B-Instruct"]))
    assert (cell["text"], cell["beyond"]) == ("−26.1*", True)
    shown = texts(plot.svg())
    assert {"−26.1*", "BoolQ", "HGSP_2000"} <= {*shown}
    assert any(text.startswith("* beyond two standard errors") for text in shown)


def test_without_standard_errors_no_task_is_marked(wh):
    plot = wh.plot("tasks")
    assert not any(text.endswith("*") for text in data_of(plot.spec, "text"))
    assert plot.spec["title"]["text"][0] == "No file states the standard errors: none is marked."


def test_units_are_those_of_the_query(wh):
    spec = wh.plot("units", "HeadPrune_2000").spec
    rows = [row for row in wh.query("unit_pruning", models=["HeadPrune_2000"]).to_dicts() if row["kind"] == "head"]
    shown = {(cell["block"], cell["row"]): cell["state"] for cell in spec["vconcat"][0]["data"]["values"]}
    expected = {
        (str(row["base_layer_index"]), unit): "kept" if unit in row["units_kept"] else "removed"
        for row in rows
        for unit in range(row["num_base_units"])
    }
    assert shown == expected
    neurons = [
        row["num_units"] for row in wh.query("unit_pruning", models=["HeadPrune_2000"]).to_dicts() if row["kind"] == "neuron"
    ]
    assert data_of(spec["vconcat"][2], "value") == neurons


def test_roles_are_shares_of_the_weights_of_the_base(wh):
    rows = wh.tensors().to_dicts()
    sizes = {(row["model_id"], row["name"]): row["params"] - row["zeros"] for row in rows}
    spec = wh.plot("roles", "HeadPrune_2000").spec
    cells = {(cell["row"], cell["block"]): cell["value"] for cell in spec["layer"][0]["data"]["values"]}
    name = "model.layers.3.mlp.down_proj.weight"
    assert cells["down_proj", "3"] == sizes["results/HeadPrune_2000", name] / sizes[demo.BASE, name]
    assert len(cells) == 7 * 8
    gone = wh.plot("roles", "ShortGPT_remove_2").spec["layer"][-1]
    assert {cell["block"] for cell in gone["data"]["values"]} == {"4", "5"}
    zeros = wh.plot("roles", "Magnitude_5000", measure="sparsity").spec["layer"][0]["data"]["values"]
    assert all(0.3 < cell["value"] < 0.7 for cell in zeros)


def test_spectra_are_medians_over_a_block(wh):
    points = wh.plot("spectra", "Tiny-Base", measure="stable_rank").spec["layer"][-1]["data"]["values"]
    rows = wh.sql(
        "SELECT layer_index, median(stable_rank) FROM tensors JOIN current_checkpoints USING (checkpoint_id)"
        " WHERE model_id = 'baselines/Tiny-Base' AND module IN ('attention', 'mlp') GROUP BY 1 ORDER BY 1"
    )
    assert [(point["block"], point["value"]) for point in points] == [(str(a), b) for a, b in rows.rows()]


def test_sparsity_and_measures(wh):
    spec = wh.plot("layers", "Magnitude_5000", measure="sparsity").spec
    share = wh.models().filter(wh.models()["model_id"] == "baselines/Magnitude_5000")["prunable_sparsity"].item()
    assert f"model {100 * share:.1f}%" in data_of(spec, "text")
    bytes_kept = wh.plot("layers", "HeadPrune_2000", by="bytes").spec
    assert bytes_kept["layer"][0]["encoding"]["y"]["title"] == "bytes kept"
    masked = wh.plot("layers", "Magnitude_5000").spec["layer"][0]["data"]["values"]
    assert all(bar["value"] < 0.7 for bar in masked)


def test_any_column_may_be_an_axis(wh):
    spec = wh.plot("speed", x="prunable_sparsity", y="latency_ms_bs1").spec
    frame = wh.query("performance")
    points = spec["layer"][0]["data"]["values"]
    assert sorted(point["y"] for point in points) == sorted(frame["latency_ms_bs1"].drop_nulls().to_list())
    heads = wh.plot("layers", "HeadPrune_2000", y="num_heads").spec["layer"][0]["data"]["values"]
    assert [bar["value"] for bar in heads] == wh.layers("HeadPrune_2000")["num_heads"].to_list()


# Bad input


@pytest.mark.parametrize(
    ("kind", "models", "options", "text"),
    [
        ("pie", (), {}, "no kind of figure 'pie'; there is layers, heat"),
        ("layers", (), {}, "a figure of layers is of one model, and 6 models are chosen"),
        ("layers", ("nowhere",), {}, "no model 'nowhere'"),
        ("layers", ("HeadPrune_2000",), {"measure": "weight"}, "no measure 'weight' of layers; there is retention, reduction"),
        ("layers", ("HeadPrune_2000",), {"x": "params"}, "--x is not for layers; it is for tradeoff, speed"),
        ("heat", (), {"measure": "a", "y": "b"}, "--measure and --y name the same axis"),
        ("heat", (), {"width": "wide"}, "--width 'wide': not a width"),
        ("heat", (), {"width": "1in"}, "choose a width from 1.667in to 138.9in"),
        ("heat", (), {"language": "fr"}, "--lang 'fr': choose one of en, zh"),
        ("heat", (), {"label": "some"}, "--label 'some': choose one of front, all, none"),
        ("heat", (), {"color": "red"}, "no option 'color' of figures"),
        ("heat", (), {"by": "weight"}, "--by weight: choose one of params"),
        ("heat", (), {"where": "params >"}, "--where 'params >'"),
        ("tradeoff", (), {"y": "speeed"}, "no column of models 'speeed'"),
        ("tradeoff", (), {"measure": "c4"}, "no measure of quality 'c4'; there is mean_accuracy, ptb@?, wikitext2@?"),
        ("speed", (), {"y": "strategy"}, "column 'strategy' has other values than numbers"),
        ("spectra", (), {"measure": "beta"}, "no measure 'beta' of spectra; there is alpha"),
        ("heat", (), {"where": "false"}, "no layer has a known retention"),
    ],
)
def test_a_wrong_option_is_one_line(wh, kind, models, options, text):
    with pytest.raises(UsageError) as raised:
        wh.plot(kind, *models, **options).svg()
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_model_without_a_base_has_no_retention(tmp_path):
    demo.write_study(tmp_path)
    lh.ingest([tmp_path / "results"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as opened:
        with pytest.raises(UsageError, match="HeadPrune_2000: no layer has a known retention; --measure"):
            opened.plot("layers", "HeadPrune_2000")
        assert opened.plot("layers", "HeadPrune_2000", measure="sparsity").spec["layer"]


# Specifications


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"width": "3.25in", "dark": True, "language": "zh"}], ids=["plain", "column"])
def test_every_specification_is_valid_and_draws(wh, kind, options):
    further = {"measure": "stable_rank"} if kind == "spectra" else {}
    plot = wh.plot(kind, *KINDS[kind], **options, **further)
    assert is_valid(plot.spec), [error.message for error in validator().iter_errors(plot.spec)][:3]
    assert texts(plot.svg())


def test_every_kind_has_a_test():
    assert [*KINDS] == [*FIGURES]


def test_the_schema_notices_a_wrong_specification(wh):
    spec = wh.plot("heat").spec
    assert not is_valid({**spec, "layer": [{"mark": "bars"}]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", ["3.25in"])
def test_a_figure_is_planned_as_wide_as_it_becomes(wh, kind, width):
    further = {"measure": "stable_rank"} if kind == "spectra" else {}
    plot = wh.plot(kind, *KINDS[kind], width=width, **further)
    svg = rendering.converter().vegalite_to_svg(rendering.spec_text(plot.spec), vl_version=rendering.VEGA_LITE)
    natural = float(re.search(r'width="([\d.]+)"', svg)[1])
    assert natural == pytest.approx(plot.width.units, rel=0.04)


def test_a_figure_is_just_as_wide_as_asked_for(wh):
    paper, pixels = (wh.plot("heat", width=width) for width in ("3.25in", "1401px"))
    root = ElementTree.fromstring(paper.svg())
    assert root.get("width") == "3.25in"
    assert float(root.get("height").removesuffix("in")) > 0.5
    assert ElementTree.fromstring(pixels.svg()).get("width") == "1401"
    assert int.from_bytes(pixels.png()[16:20], "big") == 1401
    assert int.from_bytes(wh.plot("heat").png()[16:20], "big") == 1440
    assert abs(int.from_bytes(paper.png()[16:20], "big") - 975) <= 1
    assert float(pypdf.PdfReader(io.BytesIO(paper.pdf())).pages[0].mediabox.width) == pytest.approx(234, abs=0.5)


@pytest.mark.parametrize(
    ("text", "units"), [("3.25in", 234), ("8.255cm", 234), ("82.55mm", 234), ("234pt", 234), ("700PX", 700)]
)
def test_widths_have_units(text, units):
    assert Width.parse(text).units == pytest.approx(units)


def test_all_texts_are_in_both_languages_and_take_the_same_values():
    for key, languages in WORDS.items():
        assert set(languages) == {"en", "zh"}, key
        assert {*re.findall(r"\{\w+\}", languages["en"])} == {*re.findall(r"\{\w+\}", languages["zh"])}, key


# Rows as they may come: functions alone


def row(block, layer=None, kept=0.5, model="a/m", stack="text", match="exact", **further):
    return {
        "model_id": model,
        "stack": stack,
        "base_layer_index": block,
        "layer_index": layer,
        "match": match,
        "kept_by": "params",
        "kept_share": kept,
        "kept_level": None,
        "sparsity": None,
        "params": 10,
        **further,
    }


def test_repeated_added_unknown_and_removed_layers_have_a_place():
    rows = [row(0, 0, 1.0), row(1, 1), row(1, 2), row(2, None, 0.0), row(3, 3, None), row(None, 4, None)]
    spec = layer_bars(rows, Look(), model="a/m", means={"retention": None})
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["0", "1", "1′", "2", "3", "+4"]
    assert [
        layer["data"]["values"] for layer in spec["layer"] if layer["mark"].get("shape") and layer["mark"]["filled"] is False
    ] == [[{"block": "2"}]]
    assert [row for row in spec["layer"][3]["data"]["values"] if row.get("text") == "?"] == [
        {"block": "3", "text": "?"},
        {"block": "+4", "text": "?"},
    ]
    assert spec["title"]["subtitle"] == ["mean not known"]
    assert is_valid(spec)


def test_a_grown_layer_is_higher_than_its_block():
    rows = [row(0, 0, 1.4), row(1, 1, 1.0)]
    up, down = (
        layer_bars(rows, Look(), model="a/m", measures=[name])["layer"][0]["encoding"]["y"]
        for name in ("retention", "reduction")
    )
    assert up["scale"]["domain"][1] > 1.4
    assert down["scale"]["domain"][0] < -0.4


def test_stacks_have_panels_and_rows_of_their_own():
    rows = [row(0, 0), row(0, 0, stack="vision")]
    spec = layer_bars(rows, Look(), model="a/m", means={"retention": 0.5}, mean_stack="text")
    titles = [panel["layer"][0]["encoding"]["x"]["title"] for panel in spec["vconcat"]]
    assert titles == ["block of the base (text)", "block of the base (vision)"]
    assert [sum("mean 50.0%" in str(layer["data"]) for layer in panel["layer"]) > 0 for panel in spec["vconcat"]] == [
        True,
        False,
    ]
    assert heat_map(rows, Look())["layer"][0]["encoding"]["y"]["scale"]["domain"] == ["m · text", "m · vision"]


def test_panels_of_units_share_the_colours_of_all_states():
    def units(kind, kept):
        return row(0, 0, kind=kind, num_units=len(kept), num_base_units=2, units_kept=kept)

    spec = unit_panels([units("head", [0, 1]), units("kv_group", [1])], Look(), model="m", other_stacks=["vision"])
    scales = [panel["encoding"]["fill"]["scale"] for panel in spec["vconcat"]]
    assert scales[0] == scales[1]
    assert len(scales[0]["domain"]) == len(set(scales[0]["range"])) == 2
    assert "text alone; not shown: vision" in json.dumps(spec)


def test_panels_share_the_colours_of_all_bands():
    """Each panel named its own bands alone: in the shared scale, a removed block had the colour of a whole one."""
    rows = [row(0, 0, 0.9), row(0, 0, 0.3, stack="vision"), row(1, None, 0.0, stack="vision", match="removed")]
    spec = layer_bars(rows, Look(), model="a/m")
    scales = [panel["layer"][0]["encoding"]["color"]["scale"] for panel in spec["vconcat"]]
    assert scales[0] == scales[1]
    assert scales[0]["domain"] == ["over 80% kept", "20% to 50%", "block removed"]
    assert len(set(scales[0]["range"])) == 3


def test_a_heat_map_says_what_it_leaves_out():
    rows = [row(0, 0), row(0, 1), row(None, 2, None), row(0, 0, None, model="b/other", match=None)]
    spec = heat_map(rows, Look())
    text = " ".join(spec["title"]["text"])
    assert "2x: two layers are this block." in text
    assert "Not shown: 1 layers that are no block of the base (m)." in text
    assert "Left out, as they have no value: other." in text
    assert data_of(spec, "text") == ["2x"]


@pytest.mark.parametrize("stars", [True, False, None])
def test_a_task_says_how_sure_it_is(stars):
    rows = [
        {"model_id": "m", "variant": None, "t_delta": -0.05, "t_beyond_2se": stars},
        {"model_id": "n", "variant": "v", "t_delta": None, "t_beyond_2se": None},
    ]
    spec = task_grid(rows, Look(), tasks=["t"])
    assert data_of({"layer": spec["layer"][1:]}, "text") == ["−5.0*" if stars else "−5.0"]
    note = {True: "* beyond", False: "Grey: within", None: "No file states"}[stars]
    assert spec["title"]["text"][0].startswith(note)
    assert spec["title"]["text"][1] == "Left out, as they have no value: n (v)."


def test_units_that_are_not_known_are_not_drawn_as_kept():
    common = {"model_id": "m", "stack": "text", "match": "exact", "kind": "head"}
    rows = [
        {**common, "base_layer_index": 0, "layer_index": 0, "num_units": 1, "num_base_units": 2, "units_kept": [1]},
        {**common, "base_layer_index": 1, "layer_index": 1, "num_units": 1, "num_base_units": 2, "units_kept": None},
        {**common, "base_layer_index": 2, "layer_index": None, "num_units": 0, "num_base_units": 2, "units_kept": []},
    ]
    states = [cell["state"] for cell in unit_panels(rows, Look(), model="m")["data"]["values"]]
    assert states == ["removed", "kept", "not known", "not known", "removed", "removed"]
    counted = unit_panels([{**entry, "units_kept": None, "num_units": None} for entry in rows[:1]], Look(), model="m")
    assert data_of(counted, "text") == ["?"]
    assert data_of(counted, "value") == []


def test_a_spectrum_that_is_not_known_is_a_gap():
    rows = [
        {"model_id": name, "block": block, "value": value, "least": value, "greatest": value}
        for name, block, value in [("m", 0, 3.0), ("m", 1, None), ("m", 2, 4.0), ("n", 0, None)]
    ]
    spec = spectral_lines(rows, Look())
    assert [(point["block"], point["value"]) for point in spec["layer"][-1]["data"]["values"]] == [("0", 3.0), ("2", 4.0)]
    assert "Left out, as they have no value: n." in " ".join(spec["title"]["text"])


def test_speeds_of_several_machines_are_named():
    rows = [
        {
            "model_id": f"m{number}",
            "method": None,
            "kept_by": "params",
            "kept_share": 0.5,
            "throughput_bs1": 5.0 + number,
            "speed_hardware": hardware,
        }
        for number, hardware in enumerate(["A100", "A100", "H100"])
    ]
    spec = column_scatter(rows, Look(), x="kept_share", y="throughput_bs1")
    assert spec["title"]["text"] == ["Measured on A100 (2), H100 (1)."]
    unknown = column_scatter([{**entry, "speed_hardware": None} for entry in rows], Look(), x="kept_share", y="throughput_bs1")
    assert unknown["title"]["text"] == ["No file names the hardware of the speeds."]


def test_perplexities_far_apart_are_on_a_logarithmic_axis():
    rows = [
        {"model_id": f"m{number}", "method": "M", "kept_by": "params", "kept_share": share, "value": value, "is_on_front": True}
        for number, (share, value) in enumerate([(1.0, 8.0), (0.5, 900.0)])
    ]
    spec = trade_off(rows, Look(), measure="wikitext2@?")
    scale = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "point")["encoding"]["y"]
    assert scale["scale"]["type"] == "log"
    assert scale["title"] == "perplexity, wikitext2@? (lower is better, log scale)"
    assert is_valid(spec)


# Names


def test_hostile_names_are_text_everywhere(tmp_path):
    names = [f"x/{name}" for name in HOSTILE]
    look = Look(names=names, label="all")
    layers = [row(0, 0, 0.3, model=name) for name in names]
    points = [
        {
            "model_id": name,
            "method": name,
            "kept_by": "params",
            "kept_share": 0.1 * number,
            "value": 0.5 + 0.05 * number,
            "is_on_front": True,
        }
        for number, name in enumerate(names)
    ]
    roles = [row(0, 0, 0.3, model=names[0], role=name) for name in HOSTILE]
    tasks = [
        {
            "model_id": name,
            "variant": None,
            **{f"{task}{end}": value for task in HOSTILE for end, value in (("_delta", -0.1), ("_beyond_2se", True))},
        }
        for name in names
    ]
    spectra = [
        {"model_id": name, "block": 0, "value": 3.0 + number, "least": 1.0, "greatest": 9.0}
        for number, name in enumerate(names)
    ]
    draws = (
        *(functools.partial(layer_bars, [entry], model=entry["model_id"]) for entry in layers),
        functools.partial(heat_map, layers),
        functools.partial(trade_off, points, measure="mean_accuracy"),
        functools.partial(role_map, roles, model=names[0]),
        functools.partial(task_grid, tasks, tasks=list(HOSTILE)),
        functools.partial(spectral_lines, spectra),
    )
    for draw in draws:
        plot = Plot("any", lambda look, draw=draw: draw(look=look), look, Width(2000, "px", is_stated=True))
        svg = plot.svg()
        root = ElementTree.fromstring(svg)
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
            "svg",
            "g",
            "path",
            "text",
            "rect",
            "defs",
            "clipPath",
            "line",
            "linearGradient",
            "stop",
            "tspan",
            "style",
        }
        assert not any(key.startswith("on") or "href" in key for element in root.iter() for key in element.attrib)
        assert re.search("[\x00-\x08\x0b-\x1f\u2028\u202e]", svg) is None
        page, source = plot.html(), plot.json()
        assert page.count("<script") == page.count("<img") == 0
        assert source.isascii()
        assert "<" not in source
        assert json.loads(source) == plot.spec
    shown = " ".join(texts(Plot("any", lambda look: heat_map(layers, look), look, Width(2000, "px")).svg()))
    for name in HOSTILE[:4]:
        assert visible(name.rpartition("/")[2]).replace("\ufffe", "\\ufffe") in shown


def test_no_data_is_part_of_an_expression(wh):
    """Vega evaluates what a specification has as an expression; none may hold a name."""
    found = []

    def walk(value, key=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                walk(inner, key)
        elif key in ("expr", "test", "filter", "calculate", "signal", "labelExpr"):
            found.append(value)

    for kind, models in KINDS.items():
        walk(wh.plot(kind, *models, **({"measure": "stable_rank"} if kind == "spectra" else {})).spec)
    assert set(found) == {"datum.front === false"}


def test_labels_of_models_are_apart_and_mean_their_model(wh):
    names = wh.models()["model_id"].to_list()
    labels = Look(names=names).labels(names, 300)
    assert labels["results/HeadPrune_2000"] == "HeadPrune_2000"
    for name, label in labels.items():
        assert wh.query("summary", models=[label])["model_id"].to_list() == [name]
    long = [f"m{'x' * 90}{number}{'y' * 90}" for number in range(5)]
    short = Look().labels(long, 100)
    assert len(set(short.values())) == 5
    assert all(text_width(label.partition(" (")[0], 11) <= 100 for label in short.values())


def test_files_in_a_folder_have_names_of_their_own():
    assert file_names(["a/b", "a_b", "A_B", "..", "\u202e", "x" * 300]) == [
        "a_b",
        "a_b_2",
        "A_B_3",
        "model",
        "model_2",
        "x" * 100,
    ]


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=25),
    st.lists(st.text("abcM_0", min_size=1, max_size=14), min_size=25, max_size=25),
)
def test_no_label_covers_a_label_or_a_point(points, names):
    texts_ = [(number, names[number]) for number in range(len(points))]
    boxes = []
    for label in place_labels(texts_, points, [], (300, 200), 9):
        width = text_width(names[label.index], 9)
        left = label.x - {"left": 0, "right": width, "center": width / 2}[label.align]
        boxes.append((left, label.y - 4.5, left + width, label.y + 4.5))
        assert left >= 0
        assert left + width <= 300
        assert not any(left < x < left + width and abs(y - label.y) < 4.5 for x, y in points)
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_texts_are_measured_cut_and_wrapped():
    assert text_width("Hi", 1000) == 722 + 222
    assert cut("results/HGSP_2000", 10, 1000) == "results/HGSP_2000"
    short = cut("a" * 30 + "b" * 30, 10, 100)
    assert (short[0], short[-1], "…" in short, text_width(short, 10) <= 100) == ("a", "b", True, True)
    assert cut_apart(["same", "same", "same (2)"], 10, 100) == ["same", "same (2)", "same (2) (2)"]
    assert wrap("one two three", 10, text_width("one two", 10)) == ["one two", "three"]


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.booleans(), st.integers(2, 9))
def test_ticks_are_within_their_axis_and_tell_apart(low, factor, is_log, count):
    axis = Axis("t", PPL if is_log else NUMBER, low, low * factor, is_log=is_log)
    ticks = axis.ticks(count)
    assert ticks == sorted(set(ticks))
    assert all(axis.low <= tick * (1 + 1e-9) and tick <= axis.high * (1 + 1e-9) for tick in ticks)
    assert len(ticks) <= 2 * count + 2
    assert all(math.isfinite(axis.place(tick)) for tick in ticks)


def test_ticks_of_shares_are_percentages():
    axis = Axis("t", RATIO, 0.51, 0.63)
    assert axis.labels(axis.ticks(6)) == ["52%", "54%", "56%", "58%", "60%", "62%"]
    fine = Axis("t", RATIO, 0.51, 0.52)
    assert (
        fine.labels(fine.ticks(4)) == ["51.0%", "51.2%", "51.5%", "51.8%", "52.0%"] or len(set(fine.labels(fine.ticks(4)))) > 2
    )


def test_hatching_stays_within_its_cell():
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", hatch(10, 6))]
    assert max(map(abs, numbers[::2])) <= 5.01
    assert max(map(abs, numbers[1::2])) <= 3.01
    assert hatch(10, 6).count("M") >= 4


# Files


def test_a_folder_takes_one_file_a_model(study, tmp_path):
    result = layerhouse("plot", "layers", "-o", tmp_path / "figures", "--measure", "retention,reduction", cwd=study)
    assert result.returncode == 0, result.stderr
    names = ["HeadPrune_2000", "LLM-Pruner_2000", "Magnitude_2of4", "Magnitude_5000", "ShortGPT_remove_2", "Tiny-Base"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [f"{name}.svg" for name in names]
    assert layerhouse("plot", "units", "-m", "*HeadPrune*", "-f", "png", "-o", tmp_path, cwd=study).returncode == 0
    assert (tmp_path / "HeadPrune_2000.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", FIGURE_FORMATS)
def test_every_format_is_chosen_by_its_suffix(study, tmp_path, name):
    result = layerhouse("plot", "heat", "-o", tmp_path / f"a.{name.upper()}", cwd=study)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    start = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!DOCTYPE html>", "json": b"{"}[name]
    assert (tmp_path / f"a.{name.upper()}").read_bytes().startswith(start)


def test_a_page_loads_nothing(wh, tmp_path):
    wh.plot("heat").save(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=", page) == []
    assert re.findall(r"https?://[^\"]*", page) == ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("heat", "-o", "a.xls"), "a.xls: the suffix names no format of figures (.svg, .png, .pdf, .html, .json)"),
        (("heat", "-f", "png", "-o", "a.svg"), "--format png and the suffix of a.svg contradict each other"),
        (("heat", "-f", "gif"), "no format of figures 'gif'; there is svg, png, pdf, html, json"),
        (("heat",), "name a file for the figure with --output (.svg, .png, .pdf, .html, .json), or a format"),
        (("heat", "-o", "no/a.svg"), "no/a.svg: cannot be written"),
        (("-f", "svg"), "name the kind of the figure: layers, heat"),
        (("layers", "-o", "a.svg"), "a figure of layers is of one model, and 6 models are chosen; name one, or"),
    ],
)
def test_a_wrong_output_is_one_line(study, arguments, text):
    result = layerhouse("plot", *(("heat",) if arguments == ("-x",) else ()), *arguments, cwd=study)
    assert (result.returncode, result.stdout) == (2, "")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_kinds_are_listed(study):
    lines = layerhouse("plot", cwd=study).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [*KINDS]


def test_a_terminal_gets_no_pixels(study):
    code, output = run_on_terminal(["plot", "heat", "-f", "png"], study)
    assert (code, output) == (2, "layerhouse: png is not for a terminal; name a file with --output\n")


def test_without_the_extra_one_line_says_what_to_install_and_json_works(study, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = functools.partial(layerhouse, cwd=study, PYTHONPATH=path, BLOCKED="vl_convert altair")
    result = run("plot", "heat", "-o", tmp_path / "a.svg")
    assert result.returncode == 2
    assert (
        result.stderr
        == "layerhouse: a figure needs vl-convert: pip install 'layerhouse[plot]'; a .json file needs no renderer\n"
    )
    assert run("plot", "heat", "-o", tmp_path / "a.json").returncode == 0
    assert is_valid(json.loads((tmp_path / "a.json").read_text("utf-8")))


def test_characters_that_no_font_has_are_named(wh, study, tmp_path):
    rows = [row(0, 0, 0.3, model="m\ue123é")]
    plot = Plot("heat", lambda look: heat_map(rows, look))
    assert plot.unshown_characters() == ["\ue123"]
    assert wh.plot("heat").unshown_characters() == []


def test_a_notebook_gets_the_specification_and_the_figure(wh):
    bundle = wh.plot("heat")._repr_mimebundle_()
    assert set(bundle) == {MIME_TYPE, "image/svg+xml", "text/plain"}
    assert bundle[MIME_TYPE]["$schema"].endswith("vega-lite/v6.json")
    assert bundle["image/svg+xml"].startswith("<svg")


def test_an_unknown_suffix_of_python_is_refused(wh, tmp_path):
    with pytest.raises(UsageError, match="names no format of figures"):
        wh.plot("heat").save(tmp_path / "a.bmp")
    with pytest.raises(NotFoundError):
        wh.plot("heat", "nowhere")


def test_a_figure_is_of_the_time_that_is_asked_for(study, tmp_path):
    result = layerhouse("plot", "heat", "-f", "json", "--as-of", "2020-01-01", cwd=study)
    assert result.returncode == 2
    assert "no layer has a known retention" in result.stderr


def test_importing_layerhouse_loads_no_renderer(study):
    code = "import sys, layerhouse as lh\nwith lh.open('layerhouse-data') as wh: wh.plot('heat').spec\n"
    code += "print(*[name for name in ('vl_convert', 'altair', 'torch') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=study, capture_output=True, encoding="utf-8", check=True)
    assert shown.stdout == "\n"
