"""Size of the report of a full-size synthetic study, and how fast its pages are in a headless Chromium.

All but the chapters that need a model or several runs: `LEFT_OUT`.
"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks import analysis, measuring
from benchmarks.measuring import Row, Usage
from gatebook import lists
from gatebook.atlas import browser, budget
from gatebook.report import render
from gatebook.report.manifest import manifest

LEFT_OUT = [name for name in lists.known_chapters(measuring.ROOT) if name not in analysis.CHAPTERS]
PROFILED = [name for name, chapter in analysis.CHAPTERS.items() if chapter.expert_page]
PROFILES, BROWSER = "profile_experts", "build_browser"
MODULES = {
    PROFILES: ("netCDF4", "gatebook.atlas.profiles", "transformers"),
    BROWSER: ("netCDF4", "gatebook.atlas.browser", "transformers"),
}
SECONDS, PEAK = 600.0, 3000.0
PAGE, EXPERT, TIMES = 500.0, 300.0, 5
"""Goals: seconds and MB of `build_browser`, milliseconds until a page is loaded and until an expert is shown; the least
of so many times counts, since other work on the machine is not the page's."""
PROGRAMS = ("chromium", "chromedriver")
LOADED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
SHOW = """
const [address, done] = arguments, began = performance.now();
const complete = () => document.querySelector("#browser[aria-busy=false]");
const look = () => (complete() ? done(performance.now() - began) : requestAnimationFrame(look));
location.hash = address;
setTimeout(look); // a new address is noticed in another task
"""


def build(folder: Path, size: analysis.Size, config: dict) -> tuple[Path, Usage]:
    """The report of a new study, and time and memory of the job that made the data of its expert browser."""
    analysis.analyse(folder, size, config)
    usage = expert_pages(folder, size, config)[BROWSER]
    metrics = {name: folder / "metrics" / analysis.RUN / f"{name}.nc" for name in analysis.CHAPTERS}
    figures = {name: folder / "figures" / analysis.RUN / name for name in analysis.CHAPTERS}
    for name in analysis.CHAPTERS:
        wildcards = {"chapter": name, "of": analysis.RUN}
        given = {"thresholds": config.get(name, {}).get("thresholds", {})}
        measuring.run_job("plot_chapter", (), {"metrics": metrics[name]}, {"figures": figures[name]}, given, wildcards)
    given = {
        "figures": list(figures.values()),
        "metrics": list(metrics.values()),
        "tables": [folder / "table" / analysis.RUN / f"{name}.csv" for name in analysis.CHAPTERS],
        "expert_sets": [folder / "table" / analysis.RUN / "expert_sets.csv"],
        "pages": [folder / kind / analysis.RUN for kind in ("experts", "browser")],
        "models": [folder / "model.json"],
        "datasets": [folder / f"dataset_{number}.nc" for number in range(size.datasets)],
    }
    given["models"][0].write_text(json.dumps(description(size)))
    left_out = {"random": dict.fromkeys(LEFT_OUT, "this benchmark has no model")}
    sections = [{"chapter": name, "of": analysis.RUN, "label": "random, random"} for name in analysis.CHAPTERS]
    settings = {"config": config, "commit": "", "graph": [], "left_out": left_out, "references": []}
    citation = yaml.safe_load((measuring.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    settings |= {"sections": sections, "missing": {"random": {}}, "citation": citation}
    measuring.run_job("build_report", (), given, {"folder": folder / "report"}, settings)
    return folder / "report", usage


def expert_pages(folder: Path, size: analysis.Size, config: dict) -> dict[str, Usage]:
    """Time and memory of the jobs whose pages are about experts, on the study that `analysis.analyse` made there."""
    datasets = [folder / f"dataset_{number}" for number in range(size.datasets)]
    tokens = [dataset.with_suffix(".nc") for dataset in datasets]
    given = {"tokens": tokens, "records": datasets, "tokenizer": folder / "tokenizer"}
    metrics = {"metrics": [folder / "metrics" / analysis.RUN / f"{name}.nc" for name in PROFILED]}
    confidence = config["statistics"]["confidence"]
    of_profiles = {"model": {}, "settings": config["expert_profiles"], "statistics": {"confidence": confidence}}
    of_browser = {"model": {}, "settings": config["browser"], "confidence": confidence}
    experts, scripts = (folder / kind / analysis.RUN for kind in ("experts", "browser"))
    table = folder / "table" / analysis.RUN / "expert_sets.csv"
    jobs = {
        PROFILES: (given | metrics, {"folder": experts}, of_profiles),
        BROWSER: (given, {"scripts": scripts, "table": table}, of_browser),
    }
    return {script: measuring.run_job(script, MODULES[script], *of_job) for script, of_job in jobs.items()}


def description(size: analysis.Size) -> dict:
    """What `describe_model` would say of the model."""
    layers, rule = list(range(size.layers)), analysis.RULE
    return analysis.MODEL | {
        "family": rule.family,
        "layers": layers,
        "moe_layers": layers,
        "experts": rule.experts,
        "top_k": rule.top_k,
        "parameters": 0,
        "active_parameters": 0,
        "weights_bytes": 0,
    }


def rows() -> list[Row]:
    """Sizes by kind and the times of pages, for a study of full size with the settings of `config/config.yaml`."""
    config = analysis.whole_config()
    measuring.say(f"report: {analysis.STUDY}")
    with tempfile.TemporaryDirectory() as folder:
        made, usage = build(Path(folder), analysis.STUDY, config)
        return weight(made, usage, limits(analysis.STUDY)) + speed(made)


def limits(size: analysis.Size) -> dict:
    """The budgets of a report about a study of a size, in MB."""
    given = size.layers, size.experts, size.datasets, len(analysis.CHAPTERS)
    return {"megabytes": budget.shown(*given), "download_megabytes": budget.downloads(*given)}


def weight(made: Path, usage: Usage, allowed: dict) -> list[Row]:
    """Time and memory of `build_browser`, and megabytes of the report in the folder `made`, by kind of file."""
    scripts = made / "browser" / analysis.RUN
    kinds = browser.size_by_kind(
        {path.relative_to(scripts).as_posix(): path.stat().st_size for path in sorted(scripts.rglob("*.js"))}
    )
    found = [
        measuring.judged("data of the expert browser: time", usage.seconds, "s", at_most=SECONDS),
        measuring.judged("- peak memory", usage.peak / 1e6, "MB", at_most=PEAK),
        *(measuring.judged(f"- {kind}", size / 1e6, "MB") for kind, size in kinds.items()),
    ]
    for what, key, shown in (("shows", "megabytes", True), ("links to", "download_megabytes", False)):
        sizes = render.sizes(manifest(made), shown)
        total = sum(sizes.values()) / 1e6
        found.append(measuring.judged(f"what the report {what}", total, "MB", at_most=allowed[key]))
        found += [measuring.judged(f"- {kind}", size / 1e6, "MB") for kind, size in sizes.items()]
    return found


def speed(made: Path) -> list[Row]:
    """Milliseconds until each page of the report is loaded, and until its expert browser shows an expert."""
    if not all(map(shutil.which, PROGRAMS)) or not importlib.util.find_spec("selenium"):
        return [Row("pages", f"not measured: needs selenium, {' and '.join(PROGRAMS)}")]
    with chromium() as driver:
        pages = {page.name: [load(driver, page) for _ in range(TIMES)] for page in sorted(made.glob("*.html"))}
        load(driver, made / "browser-random.html")
        experts = [driver.execute_async_script(SHOW, f"tab=experts&l={index % 2}&e={index}") for index in range(TIMES)]
    found = [measuring.judged(f"{page}: loaded", min(times), "ms", at_most=PAGE) for page, times in pages.items()]
    return [*found, measuring.judged("an expert: shown", min(experts), "ms", at_most=EXPERT)]


@contextmanager
def chromium() -> Iterator:
    """The selenium driver of a headless Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location, service = shutil.which(PROGRAMS[0]), webdriver.ChromeService(shutil.which(PROGRAMS[1]))
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(switch)
    with webdriver.Chrome(options, service) as driver:
        yield driver


def load(driver, page: Path) -> float:
    """Load a page, anew if it is the present one; milliseconds from the start of the navigation to the load event."""
    driver.get("about:blank")
    driver.get(page.as_uri())
    return driver.execute_script(LOADED)


if __name__ == "__main__":
    print(measuring.table(rows()))
