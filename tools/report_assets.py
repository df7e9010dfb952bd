"""Build what the page of a report has ready-made: the parts of Vega that it runs, with their licences, and its figures.

Run by `make report-assets`; needs npm, and vl-convert-python of the extra `dev`. With `--check`, only compile the figures, and
exit with 1 if the stored ones differ.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from layerhouse.warehouse.render.report.charts import colours, figures

ROOM = Path(__file__).parents[1] / "warehouse/render/report"
SOURCES = Path(__file__).parent / "vega"
LICENCE_NAMES = ("LICENSE", "LICENSE.md", "LICENCE")
VEGA_LITE_VERSION = "6.4"
ABSENT = ("d3-dsv", "d3-geo", "d3-scale-chromatic", "topojson-client")
"""Packages that Vega imports for what no figure has; absent.js stands for them."""


def main(arguments: list[str]) -> int:
    compiled = charts_text()
    target = ROOM / "charts.json"
    if arguments == ["--check"]:
        is_same = target.read_text("utf-8") == compiled
        print(f"{target.name} is {'up to date' if is_same else 'out of date: run `make report-assets`'}")
        return 0 if is_same else 1
    target.write_text(compiled, "utf-8")
    bundle, licences = build_bundle()
    (ROOM / "vega.js").write_text(bundle, "utf-8")
    (ROOM / "vega-licences.txt").write_text(licences, "utf-8")
    return 0


def charts_text() -> str:
    """The figures compiled to Vega, each once for both themes, their config, and the colours that the page chooses from."""
    light, dark = (compiled_figures(is_dark) for is_dark in (False, True))
    found = {name: merged(light[name], dark[name]) for name in light}
    configs = [figure.pop("config") for figure in found.values()]
    document = {"colours": colours(), "config": configs[0], "figures": found}
    assert all(config == configs[0] for config in configs)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def compiled_figures(is_dark: bool) -> dict[str, Any]:
    import vl_convert

    found = {}
    for name, spec in figures(is_dark).items():
        vega = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE_VERSION)
        found[name] = {key: value for key, value in vega.items() if key != "$schema"}
    return found


def merged(light: Any, dark: Any) -> Any:
    """One document for both themes: values that differ are an object of both."""
    if light == dark:
        return light
    if isinstance(light, dict) and isinstance(dark, dict) and light.keys() == dark.keys():
        return {key: merged(light[key], dark[key]) for key in light}
    if isinstance(light, list) and isinstance(dark, list) and len(light) == len(dark):
        return [merged(*pair) for pair in zip(light, dark, strict=True)]
    return {"light": light, "dark": dark}


def build_bundle() -> tuple[str, str]:
    """The JavaScript of Vega's parts, which begins with their versions and licences, and these alone."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for path in SOURCES.glob("*.js*"):
            shutil.copy(path, work)
        aliases = (f"--alias:{name}=./absent.js" for name in ABSENT)
        run(work, "npm", "ci", "--no-audit", "--no-fund")
        run(
            work,
            *("npx", "esbuild", "entry.js", "--bundle", "--minify", "--format=iife", "--global-name=vega"),
            *("--legal-comments=none", "--target=es2022", "--charset=ascii", "--outfile=vega.js", "--metafile=meta.json"),
            *aliases,
        )
        inputs = json.loads((work / "meta.json").read_text("utf-8"))["inputs"]
        folders = sorted({found for name in inputs if (found := package_folder(name))})
        licences = licence_text([work / folder for folder in folders])
        code = (work / "vega.js").read_text("utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f"/*\n{licences}*/\n{code}", licences


def package_folder(name: str) -> str | None:
    """The folder of the package that a file is of, also where packages are nested."""
    match = re.fullmatch(r"((?:.*/)?node_modules/(?:@[^/]+/)?[^/]+)/.*", name)
    return match and match[1]


def licence_text(folders: list[Path]) -> str:
    """The versions of packages, and each text of a licence once, after the packages and copyright lines that it is for."""
    packages: dict[str, list[str]] = defaultdict(list)
    holders: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        described = json.loads((folder / "package.json").read_text("utf-8"))
        lines = next(folder / name for name in LICENCE_NAMES if (folder / name).is_file()).read_text("utf-8").splitlines()
        owners = [line.strip() for line in lines if line.startswith("Copyright")]
        terms = "\n".join(line.rstrip() for line in lines if not line.startswith("Copyright")).strip()
        terms = re.sub(r"\n{3,}", "\n\n", terms)
        packages[terms].append(f"{described['name']} {described['version']}")
        holders[terms] += [owner for owner in owners if owner not in holders[terms]]
    head = "Parts of Vega and of the packages that it uses, built from npm by `make report-assets`. Versions and licences:\n"
    blocks = [
        "\n".join((", ".join(dict.fromkeys(names)), "", *sorted(holders[terms]), "", terms))
        for terms, names in packages.items()
    ]
    return head + "".join(f"\n{'-' * 80}\n{block}\n" for block in blocks)


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
