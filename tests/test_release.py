"""What is released: an sdist of the committed files, and a wheel that needs nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from bayes_lrmf.storage import write_posterior

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RECIPE = """merge_method: linear
models:
  - {model: sim/base-0, parameters: {weight: 0.6}}
  - {model: sim/model-10, parameters: {weight: 0.4}}
"""
SPECS = """
from bayes_lrmf import spec

print(spec.__file__, *(spec.read_spec(name).name for name in spec.named_specs()))
"""
# What each extra is for, done once in an environment that has this extra alone.
USES = {
    "hub": """
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from bayes_lrmf.sources.hub import read_hub_lineage

server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
edges, notes = read_hub_lineage(["o/tune"], endpoint=address, token=False)
assert edges.to_numpy().tolist() == [["o/tune", "o/root", "finetune"]], (edges, notes)
""",
    "inspect": """
from bayes_lrmf.sources.inspect_ai_logs import read_inspect

assert len(read_inspect(sys.argv[1]).responses) == 4
""",
    "merge": """
from bayes_lrmf.sources.mergekit import last_merge

assert last_merge("merge.yml").parents == ("sim/base-0", "sim/model-10")
""",
    "neural": """
from bayes_lrmf.baselines import neumf

assert neumf.optax.adamw(1e-3).init
assert issubclass(neumf.NeuMF, neumf.nnx.Module)
""",
    "report": """
from bayes_lrmf.cli import main

sys.argv[1:] = ["report", "fit.nc", "-o", "report.html", "--most", "5"]
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
assert "</html>" in open("report.html", encoding="utf-8").read()
""",
    "text": """
from bayes_lrmf.similarity import text_graph

assert text_graph(["one fish", "two fish", "red dog"], k=1).nnz == 2
""",
    "docs": """
import subprocess
from pathlib import Path

site = Path("site").absolute()
command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", site]
subprocess.run(command, cwd=sys.argv[2], check=True)
assert (site / "reference" / "cli" / "index.html").exists()
""",
}


def uv() -> str:
    folder = os.environ.get("BAYES_LRMF_TOOLS", "")
    found = shutil.which("uv", path=folder) or shutil.which("uv")
    return found or pytest.skip("uv is not installed (or name its folder in BAYES_LRMF_TOOLS)")


def interpreter(version: str) -> str:
    """Return a Python of this version, of pyenv or on PATH, that runs; or skip."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    asked = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable, sep='\\n')"
    for python in filter(None, found):
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith(f"{version}\n"):
            # A shim of pyenv may run here, and not in a folder without a .python-version.
            return done.stdout.splitlines()[1]
    return pytest.skip(f"no Python {version} of pyenv or on PATH")


def call(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees neither this checkout nor this environment."""
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "BAYES_LRMF_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {"UV_NO_CONFIG": "1", "NO_MKDOCS_2_WARNING": "1"}
    # What is tested is what was installed; unoptimised code compiles in half the time.
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [str(c) for c in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """Return a folder of the committed files alone, as they stand in the checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def released(committed, tmp_path_factory) -> Path:
    """Return a folder with an sdist and the wheel that was built from it, in isolation."""
    folder = tmp_path_factory.mktemp("dist")
    call(uv(), "build", "--quiet", "--python", sys.executable, "-o", folder, folder=committed)
    return folder


def new_environment(version: str, folder: Path) -> Path:
    """Return the Python of a new empty environment."""
    python = interpreter(version)
    call(uv(), "venv", "--quiet", "--python", python, folder / "env", folder=folder)
    return folder / "env" / "bin" / "python"


def install(python: Path, released: Path, committed: Path, extra: str = "") -> None:
    """Install the wheel with the locked versions of what it asks for, and nothing else."""
    [wheel] = released.glob("*.whl")
    lock = ("--constraints", committed / "requirements.lock")
    what = f"bayes-lrmf{extra and f'[{extra}]'} @ {wheel.as_uri()}"
    command = ("pip", "install", "--quiet", "--exact", "--python", python, *lock, what)
    call(uv(), *command, folder=released)


def test_the_sdist_holds_the_committed_files(released, committed):
    [path] = released.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    expected = {str(p.relative_to(committed)) for p in committed.rglob("*") if p.is_file()}
    expected -= {name for name in expected if name.startswith(".ci/")}
    assert inside == expected | {"PKG-INFO"}


def test_the_wheel_alone_fits_and_predicts(released, committed, tmp_path):
    python = new_environment("3.12", tmp_path)
    install(python, released, committed)
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return call(python.parent / "bayes-lrmf", *arguments, folder=folder)

    assert run("--help").stdout.startswith("Usage: bayes-lrmf ")
    run("simulate", "-o", "data", "--models", 20, "--items", 40, "--seed", 1)
    fit = run("fit", "data/responses.parquet", "--lineage", "data/lineage.csv", "-o", "fit.nc")
    assert "method vb, spec lrmf: chosen for this table" in fit.stderr
    run("predict", "fit.nc", "-o", "scores.csv")
    scores = pd.read_csv(folder / "scores.csv")
    assert len(scores) == 20 * 4
    assert (scores["lower"] <= scores["mean"]).all()
    assert (scores["mean"] <= scores["upper"]).all()
    file, *specs = call(python, "-c", SPECS, folder=folder).stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert specs == sorted(p.stem for p in (ROOT / "models").glob("*.toml"))


def test_each_extra_is_enough_for_its_use(released, committed, kin_fit, tmp_path):
    assert set(USES) == set(PROJECT["optional-dependencies"]) - {"dev"}
    python = new_environment("3.13", tmp_path)
    folder = tmp_path / "empty"
    (folder / "api" / "models" / "o").mkdir(parents=True)
    for name, tags in {"tune": ["base_model:finetune:o/root"], "root": []}.items():
        card = {"id": f"o/{name}", "modelId": f"o/{name}", "tags": tags, "cardData": {}}
        (folder / "api" / "models" / "o" / name).write_text(json.dumps(card))
    (folder / "merge.yml").write_text(RECIPE)
    write_posterior(kin_fit, folder / "fit.nc")
    log = ROOT / "tests" / "sources" / "data" / "inspect" / "quiet_words.eval"
    for extra, use in USES.items():
        install(python, released, committed, extra)
        call(python, "-c", f"import sys\n{use}", log, committed, folder=folder)
