"""The page of a report in Chromium: what is clicked and typed, what a screen reader finds, and what the page refuses to run."""

from __future__ import annotations

import csv
import io
import random
import shutil
import time
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.escapes import visible
from layerhouse.tests.large_study import write_large_study
from layerhouse.warehouse.admin.removals import rename_model
from layerhouse.warehouse.render.kinds import COUNT, GIB, INDEX, NUMBER, PPL, RATIO, Kind
from layerhouse.warehouse.render.numbers import number_text

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed", exc_type=ImportError)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

PUBLISHED = Path("/work/shared/data/llama3-8b")
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 375, "height": 800}
EVIL = (
    "</script><script>window.broken=1</script>",
    "<img src=x onerror=window.broken=2>",
    '=HYPERLINK("http://x")',
    "\u202eevil\u2028name",
    "{{1+1}} ${window.broken=3}",
)
READY = "document.documentElement.dataset.ready === 'yes'"
MAX_WAIT_SECONDS = 120
"""Minutes, as the machine may be busy with other things."""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    demo.write_study(folder / "study")
    lh.ingest([folder / "study/results", folder / "study/baselines"], warehouse=folder / "warehouse", units=True)
    return folder / "warehouse"


@pytest.fixture(scope="module")
def demo_report(warehouse):
    return written(warehouse)


@pytest.fixture(scope="module")
def large_warehouse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    write_large_study(folder)
    lh.ingest([folder / "results", folder / "baselines"], warehouse=folder / "warehouse")
    return folder / "warehouse"


@pytest.fixture(scope="module")
def published_report(tmp_path_factory):
    if not PUBLISHED.is_dir():
        pytest.skip("the published study is not here")
    folder = tmp_path_factory.mktemp("published")
    lh.ingest([PUBLISHED], warehouse=folder / "warehouse")
    return written(folder / "warehouse")


@pytest.fixture(scope="module")
def hostile_report(warehouse, tmp_path_factory):
    copy = shutil.copytree(warehouse, tmp_path_factory.mktemp("hostile") / "warehouse")
    with lh.open(copy) as wh:
        names = wh.models()["model_id"].to_list()
    for name, evil in zip(names, EVIL, strict=False):
        rename_model(copy, name, evil)
    return written(copy, title="</title><script>window.broken=9</script>")


def written(warehouse, **options):
    target = warehouse.parent / "report.html"
    with lh.open(warehouse) as wh:
        wh.report(target, **options)
    return target


class Visit:
    """A page that is open, with what it asked for and said."""

    def __init__(self, browser, report, size=WIDE, scheme="light"):
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * MAX_WAIT_SECONDS // 2)
        self.requests, self.messages = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(report.as_uri())
        self.wait(READY)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def wait(self, expression, value=None):
        """Wait until an expression, or a function of a value, is true. Playwright's own way is to evaluate text in the page,
        which the page's policy forbids."""
        end = time.monotonic() + MAX_WAIT_SECONDS
        while not self.page.evaluate(expression, value):
            assert time.monotonic() < end, f"{expression} did not become true; messages: {self.messages}"
            self.page.wait_for_timeout(20)

    def models(self):
        return self.page.locator("#models-body th").all_inner_texts()

    def filter(self, text):
        """Type into the filter, and wait until the page has followed."""
        self.page.evaluate("() => { window.turn = PAGE.turn; }")
        self.page.fill("#filter", text)
        self.wait("PAGE.turn > window.turn")
        return self.models()

    def open_model(self, name):
        self.page.get_by_role("link", name=name, exact=True).first.click()
        self.wait_for_model(name)

    def wait_for_model(self, name):
        self.wait("name => byId('model').dataset.model?.endsWith(name)", name)


@pytest.fixture
def visit(browser, demo_report):
    with Visit(browser, demo_report) as opened:
        yield opened


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("which", ["published", "large"])
def test_a_report_opens_with_one_request_no_message_and_no_sideways_scroll(which, size, browser, request):
    report = (
        request.getfixturevalue("published_report")
        if which == "published"
        else written(request.getfixturevalue("large_warehouse"))
    )
    with Visit(browser, report, size) as opened:
        page = opened.page
        page.locator("#models-body a").nth(3).click()
        opened.wait("byId('model').dataset.model")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.keyboard.press("Escape")
        opened.wait("!byId('model').open")
        page.mouse.wheel(0, 20_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert opened.requests == [report.as_uri()]
        assert opened.messages == []
        assert len(opened.models()) == page.evaluate("MODELS.rows") == (7 if which == "published" else 200)
        drawn = page.evaluate("[...document.querySelectorAll('main canvas, main svg.marks')].length")
        assert drawn == 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_page_and_in_a_model(scheme, browser, demo_report):
    with Visit(browser, demo_report, scheme=scheme) as opened:
        checker = axe.Axe()
        assert opened.page.get_attribute("html", "data-theme") == scheme
        assert violations(checker.run(opened.page)) == []
        opened.page.get_by_text("Columns", exact=True).click()
        opened.filter("nosuchcolumn>1")
        assert violations(checker.run(opened.page)) == []
        opened.filter("")
        opened.page.locator("#column-choice").press("Escape")
        opened.open_model("HeadPrune_2000")
        assert violations(checker.run(opened.page)) == []


def violations(result):
    return [(found["id"], [node["html"][:120] for node in found["nodes"]]) for found in result.response["violations"]]


def test_the_filter_takes_words_and_conditions(visit):
    assert len(visit.models()) == 6
    assert visit.filter("reduction>10%") == ["ShortGPT_remove_2", "HeadPrune_2000", "LLM-Pruner_2000"]
    assert visit.page.inner_text("#count") == "3 of 6 rows"
    assert visit.filter("reduction>0.2") == ["ShortGPT_remove_2"]
    assert visit.filter("MAGNITUDE mean_accuracy<0.46") == ["Magnitude_2of4"]
    assert visit.filter("strategy=masked") == ["Magnitude_2of4", "Magnitude_5000"]
    assert visit.filter("method!=Magnitude reduction<17%") == ["HeadPrune_2000"]
    assert visit.filter('"num_attention_heads is 8"') == ["HeadPrune_2000", "LLM-Pruner_2000"]
    assert visit.filter("nobody") == []
    assert visit.page.locator("#heat canvas").count() == 0


def test_what_the_filter_does_not_understand_is_said(visit):
    for text, said in (
        ("nosuch>1", "No column is called “nosuch”"),
        ("reduction>20", "write 20% for 0.2"),
        ("reduction>much", "“much” is not a number"),
        ("params>5%", "params is not a share"),
        ("method>Wanda", "method is text"),
    ):
        assert len(visit.filter(text)) == 6
        assert said in visit.page.inner_text("#faults")
        assert visit.page.get_attribute("#filter", "aria-invalid") == "true"
    visit.filter("")
    assert visit.page.inner_text("#faults") == ""
    assert visit.page.get_attribute("#filter", "aria-invalid") == "false"


def test_the_choice_of_a_method_and_the_notes_follow(visit):
    visit.page.select_option("#method", "Magnitude")
    visit.wait("PAGE.rows.length === 2")
    assert visit.models() == ["Magnitude_2of4", "Magnitude_5000"]
    assert not visit.page.is_visible("#notes")
    visit.page.select_option("#method", "")
    visit.wait("PAGE.rows.length === 6")
    assert "num_hidden_layers is 8 in the config, and 6 layers are there" in visit.page.inner_text("#notes")


def test_headings_sort_and_keep_the_focus_and_unknown_values_stay_last(visit):
    heading = visit.page.locator('#models-head th[data-column="ppl_wikitext2"]')
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    rising = ["Tiny-Base", "HeadPrune_2000", "ShortGPT_remove_2", "Magnitude_5000", "Magnitude_2of4"]
    assert visit.models() == [*rising, "LLM-Pruner_2000"]
    visit.page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert visit.models() == [*reversed(rising), "LLM-Pruner_2000"]
    assert visit.page.locator('#models-head th[aria-sort="none"]').count() > 5


def test_columns_are_chosen(visit):
    visit.page.get_by_text("Columns", exact=True).click()
    visit.page.get_by_label("hellaswag %").check()
    assert "hellaswag %" in visit.page.locator("#models-head th").all_inner_texts()
    visit.page.keyboard.press("Escape")
    assert not visit.page.get_by_label("hellaswag %").is_visible()
    assert visit.page.evaluate("document.activeElement.textContent") == "Columns"
    visit.page.keyboard.press("Enter")
    visit.page.get_by_label("hellaswag %").uncheck()
    visit.page.locator("#trade-off").click()
    assert not visit.page.get_by_label("hellaswag %").is_visible()
    assert "hellaswag %" not in visit.page.locator("#models-head th").all_inner_texts()


def test_the_copy_is_csv_with_numbers_in_full_and_formulas_guarded(browser, hostile_report, warehouse):
    with Visit(browser, hostile_report) as opened:
        opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened.page.get_by_role("button", name="Copy as CSV").click()
        opened.wait("byId('said').textContent !== ''")
        assert opened.page.inner_text("#said") == "Copied 6 rows."
        text = opened.page.evaluate("navigator.clipboard.readText()")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    names = {row["model_id"] for row in rows}
    assert names >= {"'" + EVIL[2], *(set(EVIL) - {EVIL[2]})}
    with lh.open(warehouse) as wh:
        ratios = wh.models()["reduction_ratio"].drop_nulls().to_list()
    assert sorted(float(row["reduction_ratio"]) for row in rows if row["reduction_ratio"]) == sorted(ratios)


def test_a_click_shows_one_model_with_layers_heads_changes_and_files(visit, warehouse):
    visit.open_model("HeadPrune_2000")
    page = visit.page
    assert page.inner_text("#model-title") == "results/HeadPrune_2000"
    assert "sliced: 28 tensors" in page.inner_text("#model-changes")
    assert page.locator("#layers-body tr").count() == 8
    assert page.locator("#model-blocks svg").count() == page.locator("#model-head svg").count() == 1
    with lh.open(warehouse) as wh:
        results = wh.results("results/HeadPrune_2000")
        removed = wh.query("unit_pruning", models=["results/HeadPrune_2000"]).to_dicts()
    text = page.inner_text("#results-body")
    assert page.locator("#results-body tr").count() == len(results)
    assert text.count(results["source_uri"][0]) == len(results)
    assert "66.00 %" in text
    gone = sum(len(row["units_removed"]) for row in removed if row["kind"] == "head")
    assert (
        page.evaluate("CHART_VIEWS.get('model-head').data('cells').filter(cell => cell.state === 'removed').length") == gone > 0
    )
    page.get_by_role("button", name="Next model").click()
    visit.wait_for_model("LLM-Pruner_2000")
    assert "model=results%2FLLM-Pruner_2000" in page.url
    page.go_back()
    visit.wait_for_model("HeadPrune_2000")
    page.get_by_role("button", name="Close").click()
    visit.wait("!byId('model').open")
    assert "#model" not in page.url


def test_an_address_opens_its_model_and_one_that_is_not_there_none(browser, demo_report):
    for address, is_open in (("results%2FHeadPrune_2000", True), ("nobody", False), ("%E0%A4%A", False)):
        with Visit(browser, demo_report) as opened:
            opened.page.goto(f"{demo_report.as_uri()}#model={address}")
            opened.page.reload()
            opened.wait(READY)
            assert opened.page.evaluate("byId('model').open") is is_open
            assert opened.messages == []


def test_all_is_reached_by_keys(visit):
    page = visit.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("headprune")
    visit.wait("PAGE.rows.length === 1")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#models-body') !== null"):
            break
    page.keyboard.press("Enter")
    visit.wait_for_model("HeadPrune_2000")
    page.keyboard.press("ArrowRight")
    visit.wait_for_model("HeadPrune_2000")
    page.keyboard.press("Escape")
    visit.wait("!byId('model').open")
    assert page.evaluate("document.activeElement.textContent") == "HeadPrune_2000"


def test_arrows_go_through_the_models_in_the_order_of_the_table(visit):
    visit.open_model("Magnitude_2of4")
    visit.page.keyboard.press("ArrowRight")
    visit.wait_for_model("Magnitude_5000")
    visit.page.keyboard.press("ArrowLeft")
    visit.wait_for_model("Magnitude_2of4")
    visit.page.keyboard.press("ArrowLeft")
    visit.wait_for_model("LLM-Pruner_2000")


def test_a_block_of_the_heat_map_tells_its_numbers_and_opens_its_model(visit, warehouse):
    page = visit.page
    canvas = page.locator("#heat canvas")
    canvas.scroll_into_view_if_needed()
    place = page.evaluate(
        """() => {
          const view = CHART_VIEWS.get('heat'), box = document.querySelector('#heat canvas').getBoundingClientRect();
          const [x, y] = view.origin(), row = MODELS.columns.get('model_id').values.indexOf('results/HeadPrune_2000');
          const across = view.scale('x'), down = view.scale('y');
          return [box.x + x + across(3) + across.bandwidth() / 2, box.y + y + down(row) + down.bandwidth() / 2];
        }"""
    )
    page.mouse.move(*place)
    visit.wait("!byId('tip').hidden")
    tip = page.inner_text("#tip")
    assert "HeadPrune_2000" in tip
    assert "block of the base\n3" in tip
    with lh.open(warehouse) as wh:
        layers = wh.query("per_layer", models=["results/HeadPrune_2000"]).to_dicts()
    share = next(layer["kept_share"] for layer in layers if layer["base_layer_index"] == 3)
    assert f"{number_text(share, RATIO)} %" in tip.split("\n")
    page.mouse.click(*place)
    visit.wait_for_model("HeadPrune_2000")


def beats(one, other):
    """Whether a model keeps at most as much as another and is at least as accurate, and better in one of the two."""
    kept, value = other["kept_share"] - one["kept_share"], one["value"] - other["value"]
    return kept >= 0 and value >= 0 and (kept > 0 or value > 0)


def test_the_front_is_that_of_the_query_and_of_the_models_that_are_shown(browser, large_warehouse):
    with lh.open(large_warehouse) as wh:
        answer = wh.query("trade_off")
    with Visit(browser, written(large_warehouse)) as opened:
        measures = answer["measure"].unique().to_list()
        assert len(measures) == 3
        for measure in measures:
            opened.page.select_option("#quality-measure", measure)
            opened.wait("byId('quality').querySelector('svg') && PAGE.turn > 0")
            opened.page.evaluate("drawTradeOff('quality', PAGE.rows)")
            front = opened.page.evaluate("CHART_VIEWS.get('quality').data('front').map(point => point.model)")
            rows = [row for row in answer.to_dicts() if row["measure"] == measure]
            assert set(front) == {row["model_id"] for row in rows if row["is_on_front"]}
            points = opened.page.evaluate("CHART_VIEWS.get('quality').data('points').map(p => [p.model, p.x, p.y])")
            assert {tuple(point) for point in points} == {(row["model_id"], row["kept_share"], row["value"]) for row in rows}
        opened.page.select_option("#quality-measure", "mean_accuracy")
        opened.filter("method=Wanda")
        opened.page.evaluate("drawTradeOff('quality', PAGE.rows)")
        front = set(opened.page.evaluate("CHART_VIEWS.get('quality').data('front').map(point => point.model)"))
        shown = {row["model_id"] for row in answer.to_dicts() if row["method"] == "Wanda"}
        rows = [row for row in answer.to_dicts() if row["measure"] == "mean_accuracy" and row["model_id"] in shown]
        assert front == {row["model_id"] for row in rows if not any(beats(other, row) for other in rows)}


def test_equal_points_are_both_on_the_front_and_bases_do_not_compete(visit):
    points = [
        ("b", 0.5, 0.6),
        ("b", 0.5, 0.7),
        ("b", 0.5, 0.7),
        ("b", 0.4, 0.55),
        ("b", 0.6, 0.7),
        ("c", 0.1, 0.9),
        ("c", 0.2, 0.5),
    ]
    on_front = """([points, isHigher]) => {
      const all = points.map(([base, x, y]) => ({ base, x, y }));
      return all.map((point) => isOnFront(point, all, isHigher));
    }"""
    assert visit.page.evaluate(on_front, [points, True]) == [False, True, True, True, False, True, False]
    assert visit.page.evaluate(on_front, [points, False]) == [False, False, False, True, False, True, True]


def test_tasks_are_compared_with_the_base(browser, published_report):
    with Visit(browser, published_report) as opened:
        cells = opened.page.evaluate("CHART_VIEWS.get('tasks').data('cells').map(cell => [cell.model, cell.task, cell.points])")
    points = {task: points for model, task, points in cells if model.endswith("HGSP_2000")}
    assert round(points["boolq"], 1) == -26.1
    assert round(points["mean accuracy"], 2) == -18.29


def test_hatched_blocks_and_blocks_that_nothing_places(browser, published_report):
    with Visit(browser, published_report) as opened:
        cells = opened.page.evaluate("CHART_VIEWS.get('heat').data('cells').map(cell => [cell.model, cell.block, cell.state])")
        note = opened.page.inner_text("#heat-note")
    removed = [(model.split("/")[-1], block) for model, block, state in cells if state == "removed"]
    assert removed == [("ShortGPT_remove_7", block) for block in range(22, 29)]
    assert note.startswith("Blocks are gone and nothing says which: ShortGPT_remove_4.")


def test_the_theme_follows_the_system_and_the_button(browser, demo_report):
    with Visit(browser, demo_report, scheme="dark") as opened:
        colour = "getComputedStyle(document.body).backgroundColor"
        assert opened.page.evaluate(colour) == "rgb(22, 24, 27)"
        opened.page.get_by_role("button", name="Light").click()
        opened.wait(f"{colour} === 'rgb(255, 255, 255)'")
        assert opened.page.get_attribute("html", "data-theme") == "light"
        opened.wait("CHART_VIEWS.get('speed')?.background() === '#ffffff'")


def test_names_of_others_are_text_everywhere(browser, hostile_report):
    with Visit(browser, hostile_report) as opened:
        page = opened.page
        titles = [cell.get_attribute("title") for cell in page.locator("#models-body th").all()]
        assert {*titles} >= {visible(name) for name in EVIL}
        for name in EVIL:
            page.evaluate("name => openModel(name)", name)
            opened.wait("name => byId('model').dataset.model === name", name)
            assert page.inner_text("#model-title") == " ".join(visible(name).split())
        page.keyboard.press("Escape")
        page.evaluate("byId('quality').scrollIntoView()")
        labels = page.locator("#quality svg text").all_text_contents()
        assert any(page.evaluate("shortName", name) in labels for name in EVIL)
        assert page.title() == "</title><script>window.broken=9</script>"
        assert page.evaluate("window.broken") is None
        assert page.evaluate("document.images.length") == 0
        assert page.evaluate("document.scripts.length") == 11
        assert opened.messages == []
        assert len(opened.requests) == 1


def test_the_policy_stops_scripts_that_got_in_and_everything_that_would_be_loaded(visit):
    done = visit.page.evaluate(
        """async () => {
          const script = document.createElement('script');
          script.textContent = 'window.broken = 1';
          document.body.append(script);
          document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.broken = 2"><p onclick="0">x</p>');
          const asked = await fetch('data:text/plain,x').then(() => 'fetched', () => 'refused');
          // In a task of the page: what the debugger evaluates may evaluate more.
          const made = await new Promise((done) => setTimeout(() => {
            try { done(new Function('return 3')()); } catch (error) { done(error.name); }
          }, 300));
          return [window.broken ?? null, asked, made];
        }"""
    )
    assert done == [None, "refused", "EvalError"]
    assert any("Content Security Policy" in message for message in visit.messages)


def test_numbers_have_the_digits_of_the_tables(visit):
    chosen = random.Random(3)
    kinds = (RATIO, COUNT, INDEX, NUMBER, PPL, GIB, Kind("ratio", "number", digits=4, is_signed=True))
    plain = [0.0, 1.0, 0.125, 0.5, 2.675, 1e-5, 9.9999999e-7, 0.999999, 1e21, 1.5e22, 123456.789, 5e-324, 0.00005, 99.995]
    drawn = [chosen.uniform(-2, 2) * 10.0 ** chosen.randint(-9, 9) for _ in range(400)]
    values = [sign * value for value in plain for sign in (1, -1) if value] + [0.0, float("inf"), float("nan")] + drawn
    for kind in kinds:
        column = {"kind": kind.name, "digits": kind.digits, "signed": kind.is_signed}
        texts = visit.page.evaluate("([values, column]) => values.map(value => numberText(value, column))", [values, column])
        assert texts == [number_text(value, kind) for value in values], kind
    counts = [0, 7, 999, 1000, 1234567, 2**53 + 1, -(2**62)]
    texts = visit.page.evaluate(
        "values => values.map(value => numberText(BigInt(value), {kind: 'count'}))", [*map(str, counts)]
    )
    assert texts == [number_text(value, COUNT) for value in counts]


def test_hidden_characters_are_the_escapes_of_the_terminal(visit):
    texts = ["plain ü 模型", "a\tb\nc\r", "\x00\x1b\x7f\x9b", "\u200b\u202e\u2028\ufeff", "\U000e0041\U0001d173", "\ufe0f"]
    assert visit.page.evaluate("texts => texts.map(visible)", texts) == [visible(text) for text in texts]
