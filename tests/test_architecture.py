"""The house stands as drawn: our four packages, imports one way, light at the door."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("policy", "curation", "training", "flows")
ROOMS_WITHOUT_A_SUBJECT = {"utils", "helpers", "common", "types", "base", "misc"}


def _modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_that_is_imported_is_ours(package: str) -> None:
    """A generic name such as `policy` resolves to this repository and to nothing that happens to be installed."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == ROOT / package


@pytest.mark.parametrize("path", tuple(_modules()), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_dependencies_stay_in_their_package(path: Path) -> None:
    """Only flows imports Prefect, only policy imports DuckDB, and nobody imports a module without a subject."""
    package = path.relative_to(ROOT).parts[0]
    imported = _imports(path)
    assert "prefect" not in imported or package == "flows"
    assert "duckdb" not in imported or package == "policy"
    assert path.stem not in ROOMS_WITHOUT_A_SUBJECT


def test_only_settings_reads_the_environment() -> None:
    """Configuration enters through flows/settings.py; the others named here only hand the environment to a child."""
    readers = []
    for path in _modules():
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            is_get = isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.getenv", "os.environ.get"}
            is_item = (
                isinstance(node, ast.Subscript)
                and isinstance(node.ctx, ast.Load)
                and ast.unparse(node.value) == "os.environ"
            )
            if is_get or is_item:
                readers.append(str(path.relative_to(ROOT)))
    assert set(readers) <= {
        "flows/settings.py",
        "flows/prefect_server.py",  # starts a server
        "flows/deployments.py",  # starts flow runs
        "curation/worker_pool.py",  # starts workers
    }


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def test_help_needs_nothing_heavy() -> None:
    """`custody --help` answers without loading DuckDB, Arrow, NumPy, torch, Prefect or rich."""
    loaded = _modules_after(
        "from click.testing import CliRunner\nfrom flows.cli import cli\n"
        "r = CliRunner().invoke(cli, ['--help'])\nassert r.exit_code == 0 and 'crawl' in r.output"
    )
    assert not loaded & {"duckdb", "pyarrow", "numpy", "torch", "prefect", "rich", "PIL", "pycurl"}


def test_why_needs_neither_torch_nor_prefect() -> None:
    """`custody why` answers from the ledger alone."""
    loaded = _modules_after("import flows.stages.why, flows.home")
    assert not loaded & {"torch", "prefect", "open_clip", "onnxruntime", "diffusers", "pandas"}


def test_policy_imports_neither_network_nor_pixels() -> None:
    """The policy package loads no HTTP client, image library or model runtime."""
    names = [p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for p in (ROOT / "policy").rglob("*.py")]
    loaded = _modules_after("import " + ", ".join(n.removesuffix(".__init__") for n in sorted(names)))
    assert not loaded & {"pycurl", "PIL", "torch", "onnxruntime", "selectolax", "prefect", "requests.sessions"}
