"""What models were made from, found by their tensors: a zoo of known descent, what follows from it, parts of the search."""

from __future__ import annotations

import copy
import itertools
import json
import random
import shutil

import numpy as np
import pytest
import torch

import layerhouse as lh
from layerhouse.ingest.bases.find import BaseFinder, Found
from layerhouse.ingest.bases.stored import StoredDescents
from layerhouse.ingest.lineage.arborescence import cheapest_parents
from layerhouse.ingest.lineage.probes import LANES, Kinship, Probe
from layerhouse.ingest.lineage.settle import Verdict
from layerhouse.ingest_call import settle_warehouse
from layerhouse.tests.descent_models import Zoo, build_small_zoo, llama, make, masked, with_layers
from layerhouse.tests.running import layerhouse
from layerhouse.vocabulary import BaseMode, Descent
from layerhouse.warehouse.answers.lineage_tree import draw_trees

SEED = 2027
FIRST = {"tuned", "tuned too", "tuned twice", "masked", "shorter", "narrower", "cast", "merged", "packed"}
"""What was made from the first base of the zoo."""
FOUND = {
    "base": ("root", None, None),
    "tuned": ("child", "base", None),
    "tuned too": ("child", "base", None),
    "tuned twice": ("child", "tuned", None),
    "masked": ("child", "base", None),
    "shorter": ("child", "base", None),
    "narrower": ("child", "base", None),
    "cast": ("copy", "base", None),
    "merged": ("merge", "tuned", "tuned too"),
    "packed": ("child", "tuned", None),
    "second base": ("kin", None, None),
    "second tuned": ("kin", None, None),
    "second masked": ("child", "second base", None),
}
"""The descent of each model, by name: relation and parents. Of the second base and what was tuned from it, either may be the
parent of the other as far as tensors tell."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """The small zoo, with its names in a warehouse by those in the zoo."""
    zoo = build_small_zoo(tmp_path_factory.mktemp("descent") / "zoo", SEED)
    zoo.known = {name: model_id for model_id, name in zoo.model_names().items()}
    return zoo


@pytest.fixture(scope="module")
def taken(zoo, tmp_path_factory):
    """A warehouse of the whole zoo, ingested without a base, and the report."""
    root = tmp_path_factory.mktemp("taken") / "w"
    return root, lh.ingest([zoo.folder], warehouse=root, threads=1)


def ingest(zoo, root, *names, base="auto"):
    return lh.ingest([zoo.folder.parent / zoo.known[name] for name in names], warehouse=root, threads=1, base=base)


def rows(root, sql):
    with lh.open(root) as wh:
        return wh.connection_for(sql).sql(sql).fetchall()


def bases(zoo, root):
    """The base of each model and why it is, by the names in the zoo."""
    names = zoo.model_names()
    found = rows(root, "SELECT model_id, base_model, base_rule FROM models")
    return {names[model]: (names.get(base), rule) for model, base, rule in found}


def descents(zoo, root):
    names = zoo.model_names()
    found = rows(root, "SELECT model_id, descent, parent_model, second_parent_model FROM lineage")
    return {names[model]: (descent, names.get(first), names.get(second)) for model, descent, first, second in found}


def test_every_model_of_a_folder_with_two_bases_finds_its_own(zoo, taken):
    root, report = taken
    found = descents(zoo, root)
    assert {name: (one, *sorted((first, second), key=str)) for name, (one, first, second) in found.items()} == {
        name: (one, *sorted((first, second), key=str)) for name, (one, first, second) in FOUND.items()
    }
    assert bases(zoo, root) == {
        **dict.fromkeys(FIRST, ("base", "found")),
        "base": ("base", None),
        "second base": ("second base", None),
        "second masked": ("second base", "found"),
        "second tuned": (None, None),
    }
    based = {event.where: event.what for event in report.events if event.kind == "based"}
    assert {zoo.model_names()[where] for where in based} == {*FIRST, "second masked"}
    base = zoo.known["base"]
    assert based[zoo.known["shorter"]] == f"{base}, found by tensors: all of it unchanged"
    assert based[zoo.known["packed"]].startswith(f"{base}, found by tensors: through {zoo.known['tuned']}; ")
    second = [event.what for event in report.events if event.where == zoo.known["second tuned"] and event.kind == "passed"]
    assert second == [f"no base: kin of {zoo.known['second base']}, and nothing tells which was made from which"]


def test_the_comparison_with_a_found_base_is_that_with_a_named_one(zoo, taken, tmp_path):
    root, _ = taken
    first = ["base", *sorted(FIRST)]
    ingest(zoo, tmp_path / "w", *first, base=zoo.folder.parent / zoo.known["base"])
    shown = "SELECT model_id, reduction_ratio, removed_layers, strategy, status_note FROM models ORDER BY model_id"
    known = {zoo.known[name] for name in first}
    assert [row for row in rows(root, shown) if row[0] in known] == rows(tmp_path / "w", shown)
    named = bases(zoo, tmp_path / "w")
    assert {named[name] for name in FIRST} == {("base", "named")}
    relations = (
        "SELECT model_id, relation, count(*) FROM tensor_matches JOIN current_checkpoints USING (checkpoint_id) GROUP BY ALL"
    )
    assert {row for row in rows(root, relations) if row[0] in known} == set(rows(tmp_path / "w", relations))


def test_with_parent_each_is_compared_with_what_it_was_made_from(zoo, tmp_path):
    names = ("base", "tuned", "tuned too", "tuned twice", "masked", "shorter", "packed")
    ingest(zoo, tmp_path / "w", *names, base="parent")
    assert bases(zoo, tmp_path / "w") == {
        "base": ("base", None),
        **dict.fromkeys(("tuned", "tuned too", "masked", "shorter"), ("base", "found")),
        "tuned twice": ("tuned", "found"),
        "packed": ("tuned", "found"),
    }


def test_without_their_base_siblings_have_no_parent(zoo, tmp_path):
    ingest(zoo, tmp_path / "w", "tuned", "tuned too", "narrower", "second masked")
    found = descents(zoo, tmp_path / "w")
    assert found["tuned"] == found["tuned too"] == ("kin", None, None)
    assert found["second masked"] == ("alone", None, None)
    assert {base for base, _ in bases(zoo, tmp_path / "w").values()} <= {None, "tuned", "tuned too"}


def shifted(model, noise, only=lambda name: True):
    """A copy of a model whose weights of these names are moved a little, as by light tuning."""
    generator = torch.Generator().manual_seed(7)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and only(name):
                value.add_(torch.randn(value.shape, generator=generator), alpha=noise * value.std().item())
    return model


def test_a_lightly_tuned_model_does_not_stand_in_for_an_absent_base(tmp_path):
    zoo = Zoo(tmp_path / "light", SEED)
    base = zoo.save("base", make(llama(hidden=64, layers=4, heads=4, kv=2, inner=160), 11), "root")
    light = zoo.save("light", shifted(base, 0.02), "tuned", ["base"])
    zoo.save("cut light", with_layers(light, [0, 1, 2]), "shorter", ["light"])
    zoo.save("queries", shifted(base, 0.3, lambda name: "q_proj" in name), "tuned in part", ["base"])
    zoo.save("upper half", shifted(base, 0.3, lambda name: "layers.2" in name), "tuned in part", ["base"])
    zoo.save("gates", shifted(base, 0.3, lambda name: "gate_proj" in name), "tuned in part", ["base"])
    zoo.save("shorter", with_layers(base, [0, 1, 3]), "shorter", ["base"])
    zoo.save("shorter too", with_layers(base, [0, 2, 3]), "shorter", ["base"])
    zoo.save("masked", masked(base, 0.5), "masked", ["base"])
    zoo.known = {name: model_id for model_id, name in zoo.model_names().items()}

    children = [name for name in zoo.known if name != "base"]
    ingest(zoo, tmp_path / "without", *children)
    found = descents(zoo, tmp_path / "without")
    assert found.pop("cut light") == ("child", "light", None)
    assert {name: parent for name, (_, parent, _) in found.items()} == dict.fromkeys(found)
    assert {found[name][0] for name in ("light", "queries", "shorter", "masked")} == {"sibling"}

    ingest(zoo, tmp_path / "with", *zoo.known)
    parents = {name: parent for name, (_, parent, _) in descents(zoo, tmp_path / "with").items()}
    assert parents == {name: next(iter(zoo.origins[name].parents), None) for name in zoo.known}


def test_a_base_that_comes_later_is_found_by_those_without_one_alone(zoo, tmp_path):
    root = tmp_path / "w"
    ingest(zoo, root, "masked", "shorter")
    ingest(zoo, root, "tuned", base=None)
    ingest(zoo, root, "second base", "cast", base="none")
    ingest(zoo, root, "second masked", base=zoo.known["second base"])
    report = ingest(zoo, root, "base")
    assert [event.kind for event in report.events].count("based") == 2
    now = bases(zoo, root)
    assert (now["masked"], now["shorter"]) == (("base", "found"),) * 2
    assert (now["tuned"], now["cast"]) == ((None, "none"),) * 2
    assert now["second masked"] == ("second base", "named")
    before = rows(root, "SELECT checkpoint_id, base_checkpoint_id FROM checkpoint_facts ORDER BY ALL")
    ingest(zoo, root, "tuned too")
    after = rows(root, "SELECT checkpoint_id, base_checkpoint_id FROM checkpoint_facts ORDER BY ALL")
    assert set(before) < set(after)
    ingest(zoo, root, "tuned", base=zoo.known["base"])
    assert bases(zoo, root)["tuned"] == ("base", "named")
    ingest(zoo, root, "masked", "tuned", base="none")
    assert {bases(zoo, root)[name] for name in ("masked", "tuned")} == {(None, "none")}
    again = ingest(zoo, root, "masked", "tuned", "shorter")
    assert {event.kind for event in again.events} == {"unchanged"}
    assert bases(zoo, root)["masked"] == (None, "none")


def test_update_settles_models_that_were_taken_with_a_base_or_with_none(zoo, tmp_path):
    root = tmp_path / "w"
    ingest(zoo, root, "base", "tuned", "tuned too", "masked", base=zoo.folder.parent / zoo.known["base"])
    ingest(zoo, root, "shorter", "narrower", base="none")
    assert set(descents(zoo, root).values()) == {(None, None, None)}
    report = settle_warehouse(root, on_event=lambda event: None)
    assert [event.kind for event in report.events] == []
    names = ("base", "tuned", "tuned too", "masked", "shorter", "narrower")
    assert descents(zoo, root) == {name: FOUND[name] for name in names}
    assert {bases(zoo, root)[name] for name in ("shorter", "narrower")} == {(None, "none")}
    commits = rows(root, "SELECT count(DISTINCT commit_id) FROM descents")
    settle_warehouse(root, on_event=lambda event: None)
    assert rows(root, "SELECT count(DISTINCT commit_id) FROM descents") == commits


def test_the_descent_of_one_new_model_is_that_which_the_whole_warehouse_shows(zoo, taken, tmp_path):
    root = tmp_path / "w"
    for names in (["base", "tuned"], ["tuned twice", "masked"], ["tuned too"], ["packed"], ["merged"]):
        ingest(zoo, root, *names)
    step_by_step = descents(zoo, root)
    assert {name: step_by_step[name] for name in ("packed", "masked")} == {name: FOUND[name] for name in ("packed", "masked")}
    settle_warehouse(root, on_event=lambda event: None)
    names = ("base", "tuned", "tuned too", "tuned twice", "masked", "packed")
    assert {name: descents(zoo, root)[name] for name in names} == {name: FOUND[name] for name in names}


def test_an_adapter_is_made_from_what_its_config_declares(zoo, tmp_path):
    folder = tmp_path / "zoo/adapter"
    shutil.copytree(zoo.folder.parent / zoo.known["base"], tmp_path / "zoo/base")
    folder.mkdir(parents=True)
    from safetensors.torch import save_file
    from torch import ones

    save_file(
        {f"base_model.model.model.layers.0.self_attn.q_proj.lora_{one}.weight": ones(2, 64) for one in "AB"},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/base"}))
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w", threads=1)
    shown = "SELECT model_id, descent, parent_model, parent_rule, base_model FROM lineage ORDER BY model_id"
    assert rows(tmp_path / "w", shown)[0] == ("zoo/adapter", "child", "zoo/base", "declared", None)


def test_a_config_that_names_the_parent_tells_which_of_two_was_made_from_the_other(zoo, tmp_path):
    for name in ("second base", "second tuned"):
        shutil.copytree(zoo.folder.parent / zoo.known[name], tmp_path / "zoo" / name.replace(" ", "_"))
    path = tmp_path / "zoo/second_tuned/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_name_or_path": "org/second_base"}))
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w", threads=1)
    shown = "SELECT descent, parent_model, parent_rule, base_model, base_rule FROM lineage ORDER BY model_id"
    assert rows(tmp_path / "w", shown) == [
        ("root", None, None, "zoo/second_base", None),
        ("child", "zoo/second_base", "declared", "zoo/second_base", "declared"),
    ]


def test_the_command_draws_the_trees_and_writes_the_table(zoo, taken):
    root, _ = taken
    drawn = layerhouse("lineage", zoo.known["second masked"], "-w", root)
    assert (drawn.returncode, len(drawn.stdout.splitlines())) == (0, 2)
    assert drawn.stdout.splitlines()[1].startswith(f"└─ {zoo.known['second masked']}  child: ")
    table = layerhouse("lineage", "-w", root, "-f", "json", "--columns", "model,parent_model")
    parents = {row["model_id"]: row["parent_model"] for row in json.loads(table.stdout)}
    assert parents[zoo.known["packed"]] == zoo.known["tuned"]
    wrong = layerhouse("lineage", "nobody", "-w", root)
    assert (wrong.returncode, wrong.stderr.startswith("layerhouse: no model 'nobody'; there is ")) == (2, True)


def drawn_row(name, descent=None, parent=None, **others):
    texts = ("second_parent_model", "parent_rule", "runner_up_model", "base_model")
    shares = ("same_share", "rounded_share", "masked_share", "changed_share", "second_parent_share")
    return {
        **dict.fromkeys((*texts, *shares, "distance", "descent_confidence")),
        "model_id": name,
        "descent": descent,
        "parent_model": parent,
        **others,
    }


def test_trees_are_drawn_with_their_evidence():
    models = [
        drawn_row("base", "root"),
        drawn_row("a", "child", "base", same_share=0.25, changed_share=0.75, distance=0.0125, descent_confidence=0.75),
        drawn_row("b", "child", "a", masked_share=1.0, parent_rule="found", descent_confidence=0.25, runner_up_model="base"),
        drawn_row("c", "merge", "a", second_parent_model="b", second_parent_share=0.3),
        drawn_row("d", base_model="base"),
        drawn_row("lost", "copy"),
        drawn_row("s", "sibling"),
    ]
    assert draw_trees(models, None, is_unicode=True).splitlines() == [
        "base  root",
        "├─ a  child: 25% unchanged, 75% changed (distance 0.013); confidence 0.75",
        "│  ├─ b  child: all masked; confidence 0.25; or of base",
        "│  └─ c  merge with 30% of b",
        "└─ d  compared with it, not traced",
        "lost  copy of a model that is not here any more",
        "s  a sibling of others whose base is not here",
    ]
    assert draw_trees(models, {"d"}, is_unicode=False).splitlines()[2:] == [
        "|  |- b  child: all masked; confidence 0.25; or of base",
        "|  `- c  merge with 30% of b",
        "`- d  compared with it, not traced",
    ]
    circle = [drawn_row("x", base_model="y"), drawn_row("y", "child", "x")]
    assert draw_trees(circle, None, is_unicode=True).splitlines() == ["x  not traced", "└─ y  child"]


def all_trees(nodes, edges):
    """The cost of every arborescence from node 0."""
    choices = [[parent for parent in range(nodes) if (parent, child) in edges] for child in range(1, nodes)]
    for chosen in itertools.product(*choices):
        above = dict(zip(range(1, nodes), chosen, strict=True))
        if all(0 in {above.get(node, 0), *climb(above, node)} for node in above):
            yield sum(edges[parent, child] for child, parent in above.items())


def climb(above, node):
    seen = set()
    while node in above and node not in seen:
        seen.add(node)
        node = above[node]
    return {*seen, node}


def test_the_cheapest_tree_is_that_which_trying_all_trees_finds():
    generator = random.Random(3)
    for _ in range(300):
        nodes = generator.randint(2, 6)
        edges = {
            (parent, child): generator.choice([generator.random(), float(generator.randint(1, 3))])
            for parent in range(nodes)
            for child in range(1, nodes)
            if parent != child and (parent == 0 or generator.random() < 0.7)
        }
        found = cheapest_parents(0, nodes, edges)
        assert all(0 in climb(found, node) for node in range(1, nodes))
        assert sum(edges[found[child], child] for child in found) == pytest.approx(min(all_trees(nodes, edges)), rel=1e-12)


def test_a_node_that_nothing_leads_to_is_an_error():
    with pytest.raises(ValueError, match="node 2 has no parent"):
        cheapest_parents(0, 3, {(0, 1): 1.0, (2, 1): 1.0})


def probes_of_clans(sizes, likeness, roles=8):
    """Probes of clans: a common mean of unit length, and noise."""
    generator = np.random.default_rng(4)
    found = []
    for size in sizes:
        mean = generator.standard_normal((roles, LANES))
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        for _ in range(size):
            noise = generator.standard_normal((roles, LANES))
            vectors = likeness**0.5 * mean + (1 - likeness) ** 0.5 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            found.append(Probe(64, tuple(f"role{role}" for role in range(roles)), vectors.astype(np.float32)))
    return found


def test_clans_are_found_without_comparing_all_pairs():
    sizes = [400, 150, 30, 5, *[1] * 15]
    kinship = Kinship(probes_of_clans(sizes, 0.8))
    clans = kinship.clans()
    starts = np.cumsum([0, *sizes])
    assert sorted(clans) == [list(range(low, high)) for low, high in itertools.pairwise(starts.tolist())]
    near = kinship.nearest(clans[0], 12)
    assert {len(others) for others in near} == {12}
    assert all(position not in others for position, others in enumerate(near))
    large = Kinship(probes_of_clans([3000], 0.8, roles=2))
    large.nearest(range(3000), 12)
    assert large.comparisons < 0.15 * 3000 * 2999 / 2


def test_models_of_another_width_and_of_too_few_signatures_are_no_kin():
    first, second = probes_of_clans([2], 0.99)
    narrow = Probe(32, second.roles, second.vectors)
    few = Probe(64, ("other",), second.vectors[:1])
    assert len(Kinship([first, second, narrow, few]).clans()) == 3
    assert len(Kinship([first, Probe(64, (), np.zeros((0, LANES), np.float32))]).clans()) == 2


def test_nothing_descends_from_itself_through_relatives_that_were_settled_before():
    finder = BaseFinder(None, BaseMode.AUTO)
    finder.found = {"a": Found(Verdict(Descent.CHILD, 1), "b"), "d": Found(Verdict(Descent.CHILD, 1), "a")}
    stored = StoredDescents({}, rows={"b": {"parent_checkpoint_id": "c"}, "c": {"parent_checkpoint_id": "a"}})
    finder._break_circles(stored)
    assert {one: (found.verdict.relation, found.parent) for one, found in finder.found.items()} == {
        "a": ("kin", None),
        "d": ("child", "a"),
    }
