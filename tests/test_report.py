"""The page of a report as a file: its data are exact and complete, no text of others is markup, and it is small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
from html import unescape
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.errors import NotFoundError, UsageError
from layerhouse.tests.large_study import write_large_study
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.admin.removals import rename_model
from layerhouse.warehouse.render.report.columnar import CODE_LETTERS, script_json, shortest_form, table_document

ROOT = Path(__file__).parents[1]
STUDY = Path("/work/shared/data/llama3-8b")


class Elements(HTMLParser):
    """The start tags of a page, and the text of each script and style element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.texts.append((self.tags[-1][0] if "type" not in self.tags[-1][1] else "data", data))


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def decoded(document, table, column):
    """The values of a column, as data.js decodes them."""

    def values(coded):
        if isinstance(coded, list):
            return coded
        if "runs" in coded:
            return [value for value, count in coded["runs"] for _ in range(count)]
        if "ranges" in coded:
            return [first + step for first, count in coded["ranges"] for step in range(count)]
        if "words" in coded:
            codes = coded["codes"]
            return [coded["words"][CODE_LETTERS.index(code) if isinstance(code, str) else code] for code in codes]
        if "names" in coded:
            return [None if place is None else document["names"][place] for place in values(coded["names"])]
        if "same" in coded:
            return of(coded["same"])
        form = next(form for form in ("sum", "quotient", "reduction") if form in coded)
        pairs = list(zip(*map(of, coded[form]), strict=True))
        if form == "sum":
            return [a + b + rest for (a, b), rest in zip(pairs, values(coded["rest"]), strict=True)]
        if form == "quotient":
            return [None if a is None or not b else a / b for a, b in pairs]
        return [None if not a or b is None else (a - b) / a for a, b in pairs]

    def of(name):
        return values(document["tables"][table]["columns"][name]["values"])

    return of(column)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    demo.write_study(folder / "study")
    lh.ingest([folder / "study/results", folder / "study/baselines"], warehouse=folder / "warehouse", units=True)
    return folder / "warehouse"


@pytest.fixture(scope="module")
def page(warehouse, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    with lh.open(warehouse) as wh:
        wh.report(target, title="A study")
    return target.read_text("utf-8")


@pytest.mark.parametrize(
    ("table", "query"),
    [
        ("layers", "per_layer"),
        ("models", "summary"),
        ("models", "performance"),
        ("models", "against_base"),
        ("changes", "changes"),
    ],
)
def test_the_data_are_the_answers_of_the_queries_to_the_last_digit(warehouse, page, table, query):
    document = data_of(page)
    with lh.open(warehouse) as wh:
        answer = wh.query(query)
    columns = document["tables"][table]["columns"]
    numbers = [name for name, type_ in answer.schema.items() if type_.is_numeric() and answer[name].null_count() < len(answer)]
    assert set(numbers) <= set(columns)
    ids = decoded(document, table, "model_id")
    for name in numbers:
        own = [
            value for model, value in zip(ids, decoded(document, table, name), strict=True) if model in set(answer["model_id"])
        ]
        assert own == answer[name].to_list(), name
        assert [type(value) for value in own] == [type(value) for value in answer[name].to_list()], name


def test_every_layer_and_result_of_every_model_is_there(warehouse, page):
    document = data_of(page)
    with lh.open(warehouse) as wh:
        results, layers = wh.results(), wh.layers()
    assert document["tables"]["results"]["rows"] == len(results)
    assert sorted(decoded(document, "results", "value")) == sorted(results["value"])
    assert set(decoded(document, "results", "source_uri")) == set(results["source_uri"])
    assert decoded(document, "layers", "model_id") == layers.sort("model_id", maintain_order=True)["model_id"].to_list()


def test_the_trade_off_has_the_points_of_its_query(warehouse, page):
    document = data_of(page)
    with lh.open(warehouse) as wh:
        answer = wh.query("trade_off")
    for name in ("model_id", "measure", "value", "kept_share"):
        assert decoded(document, "trade_off", name) == answer[name].to_list()


def test_the_policy_allows_the_scripts_and_the_style_of_the_page_and_nothing_else(page):
    elements = Elements(page)
    policy = next(given["content"] for tag, given in elements.tags if tag == "meta" and "http-equiv" in given)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    hashes = {
        kind: [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for tag, text in elements.texts
            if tag == kind
        ]
        for kind in ("script", "style")
    }
    assert rules == {
        "default-src": "'none'",
        "script-src": " ".join(hashes["script"]),
        "style-src": " ".join(hashes["style"]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(hashes["script"]) == 9
    assert len(hashes["style"]) == 1


def test_nothing_in_the_page_names_another_file(page):
    links = [given for _, given in Elements(page).tags if {"src", "href", "srcset", "action", "data"} & given.keys()]
    assert links
    assert all(given["href"].startswith(("#", "data:,")) for given in links)
    assert "@import" not in page
    assert "url(" not in next(text for tag, text in Elements(page).texts if tag == "style")


HOSTILE = (
    "</script><script>window.broken=1</script>",
    "<img src=x onerror=window.broken=2>",
    "<!--<script>",
    "]]>\u2028\u2029",
    "\u202eevil",
    '"><style>*{display:none}',
    "@@scripts@@",
    "&lt;b&gt;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_others_is_markup(text, warehouse, page, tmp_path):
    copy = shutil.copytree(warehouse, tmp_path / "warehouse")
    rename_model(copy, "results/HeadPrune_2000", text)
    hostile = _report(copy, tmp_path / "report.html", title=text)
    assert [tag for tag, _ in Elements(hostile).tags] == [tag for tag, _ in Elements(page).tags]
    assert text in data_of(hostile)["names"]
    assert data_of(hostile)["title"] == text
    body = re.search(r'id="data">(.*?)</script>', hostile, re.DOTALL)[1]
    assert body.isascii()
    assert not set(body) & set("<>&")
    heading = unescape(re.search(r"<h1>(.*?)</h1>", hostile)[1])
    assert heading == text.translate({0x2028: "\\u2028", 0x2029: "\\u2029", 0x202E: "\\u202e"})


def _report(warehouse, target, **options):
    with lh.open(warehouse) as wh:
        wh.report(target, **options)
    return target.read_bytes().decode("utf-8")


def test_the_same_warehouse_gives_the_same_bytes(warehouse, tmp_path):
    assert _report(warehouse, tmp_path / "a.html") == _report(warehouse, tmp_path / "b.html")


def test_models_language_and_title_are_chosen(warehouse, tmp_path):
    chosen = _report(warehouse, tmp_path / "r.html", models=["results/*"], title="Ours", language="zh")
    document = data_of(chosen)
    assert document["names"] == ["results/HeadPrune_2000", "results/LLM-Pruner_2000"]
    assert document["tables"]["models"]["columns"]["method"]["heading"] == "方法"
    assert "<title>Ours</title>" in chosen
    assert {name for table in document["tables"].values() if table["rows"] for name in table["columns"]} >= {"model_id"}
    assert "<title>Models of warehouse</title>" in _report(warehouse, tmp_path / "s.html")


def test_wrong_use_is_said_in_one_sentence(warehouse, tmp_path):
    with lh.open(warehouse) as wh:
        with pytest.raises(UsageError, match=r"report\.pdf: a report is a page; give it a name that ends in \.html"):
            wh.report(tmp_path / "report.pdf")
        with pytest.raises(NotFoundError):
            wh.report(tmp_path / "report.html", models=["nobody"])
        with pytest.raises(UsageError, match="cannot be written"):
            wh.report(tmp_path / "none" / "report.html")
    assert not [*tmp_path.iterdir()]


def test_a_warehouse_without_models_has_no_report(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    lh.ingest([folder], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh, pytest.raises(UsageError, match="no models"):
        wh.report(tmp_path / "report.html")


def test_the_command_writes_the_page_and_says_so(warehouse, tmp_path):
    result = layerhouse("report", "-w", warehouse, "-o", tmp_path / "r.html", "--title", "Ours", "-m", "results/*")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"wrote {tmp_path / 'r.html'}\n")
    assert data_of((tmp_path / "r.html").read_text("utf-8"))["names"] == ["results/HeadPrune_2000", "results/LLM-Pruner_2000"]
    missing = layerhouse("report", "-w", warehouse)
    assert (missing.returncode, "Missing option '-o'" in missing.stderr) == (2, True)
    earlier = layerhouse("report", "-w", warehouse, "-o", tmp_path / "e.html", "--as-of", "2020-01-01")
    assert (earlier.returncode, "no models" in earlier.stderr) == (2, True)


def test_reports_are_small(tmp_path):
    write_large_study(tmp_path)
    lh.ingest([tmp_path / "results", tmp_path / "baselines"], warehouse=tmp_path / "w")
    text = _report(tmp_path / "w", tmp_path / "r.html")
    document = data_of(text)
    assert (len(document["names"]), document["tables"]["layers"]["rows"]) == (200, 6400)
    assert len(text.encode()) <= 900_000


@pytest.mark.skipif(not STUDY.is_dir(), reason="the published study is not here")
def test_the_report_of_the_published_study_is_small_and_exact(tmp_path):
    lh.ingest([STUDY], warehouse=tmp_path / "w")
    text = _report(tmp_path / "w", tmp_path / "r.html")
    assert len(text.encode()) <= 650_000
    document = data_of(text)
    ids = decoded(document, "models", "model_id")
    row, base = (next(place for place, name in enumerate(ids) if name.endswith(end)) for end in ("HGSP_2000", "Instruct"))
    boolq = decoded(document, "models", "boolq")
    assert round(100 * (boolq[row] - boolq[base]), 1) == -26.1
    removed = [
        block
        for model, block, level in zip(
            *(decoded(document, "layers", name) for name in ("model_id", "base_layer_index", "level")), strict=True
        )
        if model.endswith("ShortGPT_remove_7") and level == "removed"
    ]
    assert removed == [22, 23, 24, 25, 26, 27, 28]


def test_integers_beyond_doubles_and_endless_numbers_are_text():
    table = pa.table(
        {
            "model_id": ["a", "b", "c"],
            "params": pa.array([2**53, 2**53 + 1, None], pa.int64()),
            "sparsity": pa.array([float("nan"), float("inf"), 0.1], pa.float64()),
            "strategy": pa.array([None, None, None], pa.string()),
        }
    )
    columns = table_document(table, ["a", "b", "c"])["columns"]
    assert columns["params"]["values"] == [9007199254740992, "9007199254740993", None]
    assert columns["sparsity"]["values"] == ["nan", "inf", 0.1]
    assert "strategy" not in columns
    assert script_json(columns)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([1.5, 2.25, 3.125], [1.5, 2.25, 3.125]),
        ([7] * 50, {"runs": [[7, 50]]}),
        ([True] * 9 + [1] * 9, {"runs": [[True, 9], [1, 9]]}),
        ([*range(40), *range(40)], {"ranges": [[0, 40], [0, 40]]}),
        (["abcdefg", "hijklmnop"] * 9, {"words": ["abcdefg", "hijklmnop"], "codes": "AB" * 9}),
    ],
)
def test_values_are_written_in_the_shortest_form(values, form):
    assert shortest_form(values) == form


def test_a_formula_is_written_only_where_it_is_exact():
    counts = {"params": pa.array([3, 0, None], pa.int64()), "base_params": pa.array([7, 0, 5], pa.int64())}
    formulas = {"kept_share": ("quotient", "params", "base_params")}

    def form(shares):
        table = pa.table({**counts, "kept_share": pa.array(shares, pa.float64())})
        return table_document(table, [], formulas=formulas)["columns"]["kept_share"]["values"]

    assert form([3 / 7, None, None]) == {"quotient": ["params", "base_params"]}
    assert form([0.4285714285714285, None, None]) == [0.4285714285714285, None, None]
    assert form([3 / 7, 0.0, None]) == [3 / 7, 0.0, None]


@pytest.mark.skipif(find_spec("vl_convert") is None, reason="vl-convert-python is not installed")
@pytest.mark.skipif(not (ROOT / "tools/report_assets.py").is_file(), reason="not a source tree")
def test_the_stored_figures_are_those_of_their_specifications(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import report_assets

    assert report_assets.charts_text() == (report_assets.ROOM / "charts.json").read_text("utf-8")
    assert "report_assets" in sys.modules


def test_the_bundle_names_the_versions_and_licences_that_it_has():
    room = ROOT / "warehouse/render/report"
    head, licences = (room / "vega.js").read_text("utf-8")[:20_000], (room / "vega-licences.txt").read_text("utf-8")
    assert head.startswith(f"/*\n{licences}*/\n")
    packages = dict(re.findall(r"^(?:.*, )?(vega-(?:view|parser|interpreter)) (\S+?)(?:,.*)?$", licences, re.MULTILINE))
    assert "vega-interpreter 2.3.2" in licences
    assert "University of Washington" in licences
    assert "Mike Bostock" in licences
    assert packages


def test_a_model_without_a_plain_run_has_a_row_for_each_of_its_runs(tmp_path):
    for step, accuracy in ((1000, 0.5), (2000, 0.625)):
        document = {
            "results": {"boolq": {"acc,none": accuracy}},
            "versions": {},
            "config": {"model_args": f"pretrained=m,revision=step{step}"},
        }
        demo.write_json(tmp_path / f"study/m/results_{step}.json", document)
    lh.ingest([tmp_path / "study"], warehouse=tmp_path / "w")
    document = data_of(_report(tmp_path / "w", tmp_path / "r.html"))
    rows = [decoded(document, "models", name) for name in ("model_id", "variant", "boolq")]
    assert [[text.split("/")[-1] for text in rows[0]], *rows[1:]] == [
        ["m", "m"],
        ["revision=step1000", "revision=step2000"],
        [0.5, 0.625],
    ]
    assert document["shortLengths"] == [len(document["names"][0].split("/")[-1])]
