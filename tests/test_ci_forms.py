"""The files for CI services are valid whatever a run contains, and the workflows in the docs work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from cmarkgfm import github_flavored_markdown_to_html
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from markdown_it import MarkdownIt
from sample_results import HOSTILE, LONG, document, results, trial

from harness.checkpoint import sha256
from harness.compare.outcome import Change, Comparison, State, TrialComparison, Verdict
from harness.rundir.results import Results, to_json
from harness.task import Figure
from harness.tracking.artifacts import comparison_files
from reports.ci.benchmark_json import to_bencher, to_github_action_benchmark
from reports.ci.junit import comparison_to_junit, to_junit
from reports.markdown import LIMIT, to_markdown, trial_to_markdown
from reports.write import COMPARISON_FILES, draw_frontiers, write_comparison, write_reports

DOCS = Path(__file__).parents[1] / "docs"
SUITE = """
name: tiny
datasets:
  short: {dataset: phrases, options: {max_tokens: 8, size: 24}}
adapters:
  fake: {adapter: fake-translation, batch_size: 8}
benchmarks:
  phrases: {dataset: short, adapters: [fake], metrics: [bleu, chrf]}
"""


def cases(found: Results) -> dict[tuple[str | None, str | None], ET.Element]:
    root = ET.fromstring(to_junit(found))
    elements = list(root.iter("testcase"))
    named = {(element.get("classname"), element.get("name")): element for element in elements}
    assert len(named) == len(elements)
    return named


def children(element: ET.Element) -> list[str]:
    return [child.tag for child in element]


# junit.xml


def test_a_trial_has_a_case_for_each_metric_and_scenario() -> None:
    names = [name for benchmark, name in cases(results()) if benchmark == "gettext-de"]
    assert names == [
        *("attention bleu", "attention chrf", "attention offline", "attention single-stream"),
        "lstm bleu",
    ]
    found = cases(results())["gettext-de", "attention bleu"]
    assert found.findtext("system-out") == "bleu: 31.4 [29.8, 33.0] 0–100, n=500 (BLEU|nrefs:1)"
    assert cases(results())["gettext-de", "attention offline"].get("time") == "15.500"


def test_incomplete_trials_are_errors_and_never_have_figures() -> None:
    errors = [element for element in cases(results()).values() if "error" in children(element)]
    assert [element.find("error").get("message", "")[:8] for element in errors] == ["partial:", "failed: "]
    assert all(children(element) == ["error"] for element in errors)


@pytest.mark.parametrize(("profile", "expected"), [("ci", "failure"), ("smoke", "skipped")])
def test_an_invalid_timing_fails_only_where_its_profile_gates(profile: str, expected: str) -> None:
    changed = document()
    for each in changed["trials"]:
        for scenario in each.get("speed", {}).values():
            scenario["profile"] = profile
    element = cases(Results.model_validate(changed))["scenes-boxes", "throttled offline"]
    assert children(element) == [expected, "system-out"]
    assert "load of other processes 0.70 cores" in element.find(expected).get("message", "")


def test_a_benchmark_left_out_is_skipped_with_its_reason() -> None:
    (element,) = cases(results())["gettext-fr", "not run here"]
    assert (element.tag, element.get("message")) == ("skipped", "no catalogues on this machine")


def test_counts_are_those_of_the_cases() -> None:
    root = ET.fromstring(to_junit(results()))
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        assert int(root.get(attribute, "")) == len(list(root.iter(tag))) > 0
        for suite in root:
            assert int(suite.get(attribute, "")) == len(list(suite.iter(tag)))
    assert sum(int(suite.get("skipped", "")) for suite in root) == len(list(root.iter("skipped")))


SCHEMA = etree.XMLSchema(file=str(Path(__file__).with_name("junit.xsd")))


def validate(text: str) -> None:
    SCHEMA.assertValid(etree.fromstring(text.encode()))


def test_the_schema_accepts_runs_and_comparisons_and_refuses_what_is_not_in_it() -> None:
    """Follows the part of Jenkins's junit-10.xsd (xUnit plugin) that Surefire and GitLab share."""
    for text in (to_junit(results()), comparison_to_junit(compared())):
        validate(text)
        with pytest.raises(etree.DocumentInvalid):
            validate(text.replace("<system-out>", "<output>").replace("</system-out>", "</output>"))
        with pytest.raises(etree.DocumentInvalid):
            validate(text.replace('tests="', 'cases="', 1))


# compare-junit.xml


def compared() -> Comparison:
    """Return a comparison with a trial of each verdict and state, under hostile names."""
    figure = Figure(0.5, 0.4, 0.6, 300, "0–1", "v1")
    fall = Figure(-0.1, -0.2, -0.05, 300, "0–1", "v1")

    def change(name: str, verdict: Verdict, decides: bool = True) -> Change:
        return Change("accuracy", name, figure, figure, fall, verdict, f"because {HOSTILE}", decides)

    judged = tuple(
        change(verdict, verdict)
        for verdict in ("regression", "improvement", "inconclusive", "incomparable", "unchanged")
    )
    states: tuple[State, ...] = ("missing", "new", "incomplete", "incomparable")
    trials = (
        TrialComparison("b", "judged", "detection", "compared", samples=300, flipped=2, changes=judged),
        TrialComparison(
            "b", HOSTILE, "detection", "compared", changes=(change("ap50", "regression", False),)
        ),
        *(TrialComparison("b", state, "detection", state, "so it is") for state in states),
    )
    return Comparison("tiny", "run-1", None, "run-0", None, trials, ())


def test_a_regression_that_decides_is_a_failure_with_its_reason() -> None:
    root = ET.fromstring(comparison_to_junit(compared()))
    found = {case.get("name"): case for case in root.iter("testcase")}
    (failure,) = root.iter("failure")
    assert found["judged regression"].find("failure") is failure
    assert failure.get("message", "").startswith("regression: because <script>alert('x')")
    assert failure.get("message", "").endswith("(−0.1 [−0.2, −0.05])")
    assert [name for name, case in found.items() if case.find("skipped") is not None] == [
        *("judged inconclusive", "judged incomparable", "missing", "new", "incomparable"),
    ]
    assert [name for name, case in found.items() if case.find("error") is not None] == ["incomplete"]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("10", "1", "1")


def test_a_benchmark_is_one_suite_wherever_its_trials_stand() -> None:
    """A comparison lists trials that only the baseline has last."""
    found = compared()
    alone = TrialComparison("c", "v", "detection", "new", "")
    mixed = replace(found, trials=(found.trials[0], alone, *found.trials[1:]))
    root = ET.fromstring(comparison_to_junit(mixed))
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [("b", "10"), ("c", "1")]


# junit.xml, whatever is in it


@given(st.text(st.characters(), min_size=1, max_size=40))
def test_every_name_and_message_gives_well_formed_xml(text: str) -> None:
    changed = document()
    changed["suite"] = changed["trials"][0]["variant"] = changed["trials"][0]["benchmark"] = text
    changed["trials"][-1]["reason"] = text
    validate(to_junit(Results.model_construct(**vars(Results.model_validate(changed)))))


def test_markup_and_control_characters_are_text() -> None:
    text = to_junit(results())
    assert "<script>" not in text
    assert "\u202e" not in text
    changed = document()
    changed["trials"][-1]["reason"] = "died\x00\x1b[31m\ufffe"
    (error,) = cases(Results.model_validate(changed))["scenes-masks", "broken"]
    assert error.get("message") == "failed: died\\x00\\x1b[31m\ufffd"


# summary.md

GFM = MarkdownIt("gfm-like", {"linkify": False})


def rows(text: str) -> list[int]:
    """Return the number of cells of every table row, as a parser of GitHub-flavoured Markdown reads it."""
    found: list[int] = []
    for token in GFM.parse(text):
        if token.type == "tr_open":
            found.append(0)
        elif token.type in ("th_open", "td_open"):
            found[-1] += 1
    return found


def is_plain(text: str) -> bool:
    """Check that there is no HTML, link, image or heading besides the three of tasks."""
    tokens = [each for token in GFM.parse(text) for each in (token, *(token.children or ()))]
    assert sum(token.type == "heading_open" for token in tokens) <= 3
    return not {token.type for token in tokens} & {"html_block", "html_inline", "link_open", "image", "fence"}


@pytest.mark.parametrize(
    "name",
    [
        *("www.evil.example", "WwW.evil.example", "http://evil.example", "ftp://evil.example", "@someone"),
        *("a@evil.example", "a@-evil.example", "mailto:a@evil.example", "xmpp:a@evil.example/x", "see #12"),
    ],
)
def test_githubs_own_parser_makes_no_link_of_a_name(name: str) -> None:
    assert "<a href" in github_flavored_markdown_to_html(f"see {name}") or name.startswith(("@", "see", "W"))
    content = document()
    content["suite"] = content["trials"][0]["variant"] = name
    shown = github_flavored_markdown_to_html(to_markdown(Results.model_validate(content)))
    assert "<a " not in shown
    assert name not in shown or not re.search(r"[@#]\w", name)  # which GitHub links when this is HTML
    assert name in shown.replace("\u200b", "")


def many(trials: int) -> Results:
    """Return a document of trials with hostile names, some of them incomplete."""
    content = document()
    names = (HOSTILE, LONG, "| --- |", "# heading", "[x](javascript:alert(1))", "`", "</td>", "*a*")
    content["trials"] = [
        trial("detection", f"{names[n % len(names)]}{n}", metrics=content["trials"][2]["metrics"])
        | ({"status": "failed", "metrics": {}, "reason": f"{HOSTILE}{LONG}"} if n % 3 == 0 else {})
        for n in range(trials)
    ]
    return Results.model_validate(content)


@pytest.mark.parametrize("trials", [1, 9, 200])
def test_a_summary_of_hostile_names_is_whole_tables_and_nothing_else(trials: int) -> None:
    text = to_markdown(many(trials))
    assert len(text.encode()) <= LIMIT == 60_000
    assert is_plain(text)
    assert set(rows(text)) == {4, 9}  # claims have four columns
    left_out = re.search(r"(\d+) more trials are in", text)
    assert rows(text).count(9) - 1 + (int(left_out[1]) if left_out else 0) == trials


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_no_name_leaves_its_cell(name: str) -> None:
    content = document()
    content["trials"] = content["trials"][:2]
    content["suite"] = content["trials"][0]["variant"] = content["trials"][0]["benchmark"] = name
    content["trials"][1] |= {"status": "failed", "metrics": {}, "reason": name}
    found = Results.model_construct(**vars(Results.model_validate(content)))
    text = to_markdown(found)
    assert is_plain(text)
    assert rows(text) == [9, 9, 9, 4, 4]
    assert is_plain(trial_to_markdown(found.trials[0], 8000))


# bencher.json and benchmark.json


def test_bencher_gets_every_figure_that_stands_with_its_bounds() -> None:
    found = json.loads(to_bencher(results()))
    assert found["gettext-de/attention"]["bleu"] == {
        "value": 31.42,
        "lower_value": 31.42 - 1.6,
        "upper_value": 31.42 + 1.6,
    }
    assert set(found["scenes-boxes/yolo"]) == {"ap50", "ap", "offline throughput", "single-stream p50"}
    assert not any(HOSTILE in name for name in found)  # partial
    assert "scenes-masks/broken" not in found
    assert set(found["scenes-boxes/throttled"]) == {"ap50", "ap"}  # not validly timed
    measures = [measure for benchmark in found.values() for measure in benchmark.values()]
    assert all(set(measure) == {"value", "lower_value", "upper_value"} for measure in measures)


def test_github_action_benchmark_gets_only_what_is_better_when_bigger() -> None:
    found = json.loads(to_github_action_benchmark(results()))
    assert all(set(entry) == {"name", "unit", "value", "range", "extra"} for entry in found)
    assert len({entry["name"] for entry in found}) == len(found)
    assert not [entry for entry in found if entry["unit"] == "s"]
    (entry,) = [entry for entry in found if entry["name"] == "gettext-de/attention bleu"]
    assert (entry["value"], entry["unit"], entry["range"]) == (31.42, "0–100", "[29.8, 33.0]")
    assert entry["extra"] == "n=500\nBLEU|nrefs:1"


# The files of ci/ and docs/ci.md

CI = DOCS.parent / "ci"
ACTION = yaml.safe_load((CI / "github" / "action.yml").read_text())
GITLAB = yaml.safe_load((CI / "gitlab.yml").read_text())[".harness"]


def workflow(heading: str) -> dict:
    """Return the YAML block under a heading."""
    section = (DOCS / "ci.md").read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def test_the_workflows_of_the_docs_use_the_files_of_ci_and_document_their_inputs() -> None:
    github, gitlab = workflow("GitHub Actions"), workflow("GitLab")
    step = github["jobs"]["evaluate"]["steps"][1]
    assert (DOCS.parent / step["uses"] / "action.yml").is_file()
    assert step["with"].keys() <= ACTION["inputs"].keys()
    documented = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "ci.md").read_text(), re.MULTILINE))
    assert ACTION["inputs"].keys() == documented
    assert {github["permissions"][name] for name in ("checks", "pull-requests")} == {"write"}
    assert (DOCS.parent / gitlab["include"][0]["local"]).is_file()
    assert gitlab["evaluate"]["extends"] == ".harness"
    assert gitlab["evaluate"]["variables"].keys() <= GITLAB["variables"].keys()


def test_every_step_of_the_action_has_a_shell_or_an_action() -> None:
    assert ACTION["runs"]["using"] == "composite"
    for step in ACTION["runs"]["steps"]:
        assert ("uses" in step) != ("run" in step and step["shell"] == "bash"), step["name"]
        assert step["name"] == "Install" or "${{" not in step.get(
            "run", ""
        )  # inputs reach a shell as variables


def test_environment_data_and_baseline_are_cached() -> None:
    cached = [step["with"]["path"] for step in ACTION["runs"]["steps"] if "cache@" in step.get("uses", "")]
    assert cached == [".venv", "~/.cache/harness", "runs/baseline"]
    assert [path for cache in GITLAB["cache"] for path in cache["paths"]] == [
        ".venv",
        ".cache/harness",
        "baseline.zip",
    ]


def write_harness(folder: Path, line: str) -> Path:
    """Write a command `harness` of one shell line, and return its folder."""
    program = folder / "bin" / "harness"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    return program.parent


def scripts(heading: str) -> list[str]:
    """Return the shell scripts of a workflow that call harness, in order."""
    if heading == "GitLab":
        steps = GITLAB["script"]
    else:
        steps = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    return [step for step in steps if re.search(r"\bharness (run|compare)\b", step)]


@pytest.mark.parametrize(
    ("run", "compared", "ends_with"), [(0, 0, 0), (3, 0, 3), (3, 1, 1), (0, 1, 1), (2, None, 2)]
)
def test_gitlab_compares_incomplete_runs_as_well_and_keeps_the_exit_code(
    run: int, compared: int | None, ends_with: int, tmp_path: Path
) -> None:
    """Uses a `harness` that only exits; no run is written if the suite is wrong."""
    written = "" if compared is None else "mkdir -p runs/head; touch runs/head/results.json;"
    answers = f'case "$1" in run) {written} exit {run};; compare) touch compared; exit {compared};; esac'
    environment = os.environ | {"PATH": f"{write_harness(tmp_path, answers)}:{os.environ['PATH']}"}
    environment["CI_API_V4_URL"] = "http://127.0.0.1:9"  # nobody answers: as if the baseline was there
    (tmp_path / "previous" / "runs" / "head").mkdir(parents=True)
    (tmp_path / "previous" / "runs" / "head" / "results.json").touch()
    script = "\n".join(GITLAB["script"])
    found = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=False
    )
    assert found.returncode == ends_with
    assert (tmp_path / "compared").exists() == (compared is not None)


def test_github_shows_the_comparison_the_figures_and_the_test_report() -> None:
    steps = {step["name"]: step for step in ACTION["runs"]["steps"]}
    assert steps["Test report"]["with"]["report_paths"] == "runs/head/report/*junit.xml"
    assert steps["Comment"]["with"]["path"] == "runs/comment.md"
    assert '--branch "$BRANCH" --event push ' in steps["Find the baseline"]["run"]  # a fork has a main, too
    for name in ("Find the baseline", "Compare"):  # after an incomplete run, too
        assert steps[name]["if"] == "success() || failure()"
    for name in ("Summary", "Test report", "Comment", "Keep the run", "Write the comment"):
        assert steps[name]["if"].startswith("always()")


def run_step(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the action in a folder."""
    (script,) = [step["run"] for step in ACTION["runs"]["steps"] if step["name"] == name]
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    environment = os.environ | variables
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)


def test_the_comment_is_the_comparison_with_a_link_to_the_artifact(tmp_path: Path) -> None:
    report = tmp_path / "runs" / "head" / "report"
    report.mkdir(parents=True)
    run_step("Write the comment", tmp_path, ARTIFACT="https://x/1")
    assert not (tmp_path / "runs" / "comment.md").exists()
    for name in ("summary.md", "compare.md"):
        (report / name).write_text(f"{name}\n")
        run_step("Write the comment", tmp_path, ARTIFACT="https://x/1")
        link = "[Report, and pictures of the frontier before and after](https://x/1)"
        assert (tmp_path / "runs" / "comment.md").read_text() == f"{name}\n\n{link}\n"


def test_a_baseline_is_downloaded_unless_the_cache_has_it(tmp_path: Path) -> None:
    write_harness(tmp_path, 'echo "$@" >> gh.txt; case $2 in list) echo 7;; *) exit 1;; esac').joinpath(
        "harness"
    ).rename(tmp_path / "bin" / "gh")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    output = tmp_path / "output"
    names = {"GITHUB_WORKFLOW": "evaluate", "BRANCH": "main", "GITHUB_OUTPUT": str(output), "PATH": path}
    run_step("Find the baseline", tmp_path, **names)
    assert output.read_text() == "id=7\n"
    found = run_step("Download the baseline", tmp_path, ID="7", PATH=path)
    assert found.stdout == "the artifact expired\n"
    (tmp_path / "runs" / "baseline").mkdir(parents=True)
    (tmp_path / "runs" / "baseline" / "results.json").touch()
    run_step("Download the baseline", tmp_path, ID="7", PATH=path)
    calls = (tmp_path / "gh.txt").read_text().splitlines()
    assert [call.split()[1] for call in calls] == ["list", "download"]


@pytest.mark.parametrize(
    ("heading", "baseline"),
    [
        ("GitHub Actions", "runs/baseline"),
        pytest.param("GitLab", "previous/runs/head", marks=pytest.mark.slow),
    ],
)
def test_the_commands_of_the_workflow_run(heading: str, baseline: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    bin_folder = write_harness(tmp_path, f'exec {sys.executable} -m harness "$@"')
    environment = os.environ | {"SUITE": "tiny.yaml", "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    environment["ARGUMENTS"] = ACTION["inputs"]["arguments"]["default"]
    assert environment["ARGUMENTS"] == GITLAB["variables"]["ARGUMENTS"]

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(command, check=False, **options)

    evaluate, compare = scripts(heading)
    assert shell(compare).returncode == 0  # there is no baseline yet
    found = shell(evaluate)
    assert found.returncode == 0, found.stderr
    shutil.copytree(tmp_path / "runs" / "head", tmp_path / baseline)
    found = shell(compare)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("pass; accuracy: 1 unchanged")
    report = tmp_path / "runs" / "head" / "report"
    written = {path.name for path in report.iterdir()}
    assert written >= {
        "compare.html",
        "compare.md",
        "compare.json",
        "compare-junit.xml",
        "summary.md",
        "junit.xml",
    }
    assert json.loads((report / "compare.json").read_text())["outcome"] == "pass"


def test_the_summary_step_shows_what_there_is_and_never_fails(tmp_path: Path) -> None:
    report = tmp_path / "runs" / "head" / "report"
    report.mkdir(parents=True)
    summary = tmp_path / "summary"
    for present, expected in (([], ""), (["summary.md"], "s"), (["summary.md", "compare.md"], "cs")):
        for name in present:
            (report / name).write_text(name[0])
        summary.write_text("")
        run_step("Summary", tmp_path, GITHUB_STEP_SUMMARY=str(summary))
        assert summary.read_text() == expected


def test_every_file_that_the_workflows_use_is_written(tmp_path: Path) -> None:
    files = (DOCS / "ci.md", CI / "github" / "action.yml", CI / "gitlab.yml")
    text = "".join(file.read_text() for file in files)
    (tmp_path / "results.json").write_text(to_json(results()))
    report = write_reports(tmp_path).parent
    write_comparison(compared(), tmp_path / "report")
    used = {name for name in re.findall(r"runs/head/report/([\w.*-]*)", text) if name}
    used |= {
        name for name in re.findall(r"`([\w-]+\.(?:md|html|xml|json|csv))`", text) if name != "results.json"
    }
    assert {"compare.md", "summary.md", "*junit.xml", "bencher.json"} <= used
    assert {name: len(list(report.glob(name))) for name in used} == dict.fromkeys(used, 1) | {"*junit.xml": 2}


def test_a_comparison_of_earlier_results_does_not_outlive_them(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(to_json(results()))
    compared_with = replace(compared(), results=sha256(tmp_path / "results.json"))
    report = write_comparison(compared_with, tmp_path / "report").parent
    draw_frontiers(results(), results(), report)
    written = {path.name for path in report.iterdir()}
    (report / "compared-by-me.txt").touch()
    write_reports(tmp_path)
    assert written >= {"compare-1-translation.svg", "compare-2-detection.svg"}
    assert {path.name for name in COMPARISON_FILES for path in report.glob(name)} == written
    assert {path.name for path in comparison_files(tmp_path)} >= written
    (tmp_path / "results.json").write_text(to_json(results("resumed")))
    assert comparison_files(tmp_path) == []
    write_reports(tmp_path)
    assert not written & {path.name for path in report.iterdir()}
    assert {path.name for path in report.glob("*junit.xml")} == {"junit.xml"}
    assert (report / "compared-by-me.txt").exists()
