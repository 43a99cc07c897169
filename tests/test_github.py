"""Files that other services read: workflows, hooks, citation."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def read(path: str):
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda p: p.stem)
def test_workflows_run_only_what_the_repository_offers(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"]["contents"] == "read"
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [match for step in steps for match in re.findall(r"^make (\w+)", step.get("run", ""), re.MULTILINE)]
    assert called and set(called) <= set(targets)


def test_ci_runs_the_command_of_the_readme():
    steps = read(".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    assert "make test" in [step.get("run") for step in steps]


def test_hooks_have_the_versions_of_the_lock():
    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    revisions = {Path(repo["repo"]).name: repo["rev"].lstrip("v") for repo in read(".pre-commit-config.yaml")["repos"]}
    assert revisions == {"ruff-pre-commit": pins["ruff"], "nbstripout": pins["nbstripout"]}


def test_one_address_and_one_version_everywhere():
    address = read("_config.yml")["repository"]["url"]
    citation = read("CITATION.cff")
    assert citation["repository-code"] == address
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert address in (ROOT / "book" / "howto-rerun.md").read_text()
    assert address in (ROOT / "CHANGELOG.md").read_text()


def test_licences_of_what_is_included_are_there():
    for folder in ("book/vendor/mathjax/LICENSE", "book/static/fonts/OFL.txt", "LICENSE"):
        assert (ROOT / folder).stat().st_size > 500
