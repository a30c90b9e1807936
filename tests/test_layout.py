"""The layout of the package: mirrored tests, modules of a readable size, tests that use public names only.

Every list of exceptions is exact. Remove an entry once it no longer applies; add none.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import detect

PACKAGE = Path(detect.__file__).parent
TESTS = Path(__file__).parent
SHORTEST, LONGEST = 40, 400  # lines of a module

UNTESTED_BY_NAME = {
    "conventions.py",  # constants and words
    "fitting/any_position.py",  # tests/fitting/test_gains.py
    "fitting/grid_fit.py",  # tests/fitting/test_search.py
    "fitting/kmeans.py",  # tests/fitting/test_clustering.py
    "fitting/own_positions.py",  # tests/fitting/test_gains.py
}
TESTS_OF_NO_MODULE = {
    "cli/test_help.py",  # of all commands
    "fitting/test_optimal.py",
    "fitting/test_square_bounds.py",
    "fitting/test_start.py",
}
SHORT = {
    "__main__.py": "starts the command line",
    "conventions.py": "words and constants of the whole package",
}
GLOBAL_STATE = (  # what a library must not change: threads and the caller's program would see it
    r"catch_warnings|simplefilter|filterwarnings|torch\.set_\w+|use_deterministic|np\.seterr|random\.seed\(|torch\.manual_seed"
    r"|os\.environ\[[^]]*\] =|os\.environ\.\w+default|signal\.signal|setlocale|setrecursionlimit|os\.chdir|os\.umask"
    r"|MAX_IMAGE_PIXELS =|LOAD_TRUNCATED_IMAGES|redirect_std\w+\("
)
CHANGES_GLOBAL_STATE = {
    "cli/app.py": "the process of a command is its own",
    "cli/terminal.py": "the process of a command is its own",
    "training/devices.py": "the network of gloo, in a process that torchrun started",
    "training/processes.py": "one of several processes of a run says that it is ended; restored after the run",
    "training/step.py": "within a fork of the generator",
}
PRIVATE_NAMES = {
    "fitting/test_mixture.py": {"_ledoit_wolf", "_oas"},
}


def relative(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def modules() -> set[str]:
    return {name for name in relative(PACKAGE, "*.py") if not name.endswith("__init__.py")}


def test_of(module: str) -> str:
    """Name the test file of a module: ``test_main.py`` for ``__main__.py``."""
    path = Path(module)
    return (path.parent / f"test_{path.name.replace('__', '')}").as_posix()


test_of.__test__ = False  # type: ignore[attr-defined]


def private_names(source: str) -> Iterator[str]:
    """Yield the private names that are imported from ``detect``, or are attributes of what is imported from it.

    >>> sorted(private_names("from detect.ops import _a, boxes; boxes._b(); other._c; boxes.__doc__"))
    ['_a', '_b']
    """
    tree = ast.parse(source)
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "detect":
            imported |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "detect" for alias in node.names):
            imported |= {alias.asname or "detect" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and root_name(node) in imported:
            yield node.attr


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def root_name(node: ast.expr) -> str | None:
    """Return ``a`` for ``a.b.c``."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def test_every_module_has_its_tests_at_the_mirrored_path():
    tests = relative(TESTS, "test_*.py")
    assert {module for module in modules() if test_of(module) not in tests} == UNTESTED_BY_NAME


def test_every_test_file_beside_a_package_folder_tests_a_module():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    mirrored = {name for name in relative(TESTS, "test_*.py") if "/" in name and name.split("/")[0] in folders}
    assert mirrored - set(map(test_of, modules())) == TESTS_OF_NO_MODULE


def test_no_module_is_too_long_and_short_ones_have_a_reason():
    lengths = {name: len((PACKAGE / name).read_text("utf-8").splitlines()) for name in modules()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert {name for name, length in lengths.items() if length < SHORTEST} == set(SHORT)


def test_global_state_is_changed_nowhere_else():
    lines = {name: (PACKAGE / name).read_text("utf-8").splitlines() for name in modules()}
    code = {
        name: [line for line in own if not line.lstrip().startswith(("import ", "from "))]
        for name, own in lines.items()
    }
    assert {name for name, own in code.items() if re.search(GLOBAL_STATE, "\n".join(own))} == set(CHANGES_GLOBAL_STATE)


def test_tests_use_public_names_only():
    sources = {name: (TESTS / name).read_text("utf-8") for name in relative(TESTS, "*.py")}
    used = {name: set(private_names(text)) for name, text in sources.items() if re.search(r"\b_[a-z]", text)}
    assert {name: private for name, private in used.items() if private} == PRIVATE_NAMES


def test_a_private_name_is_found_however_it_is_reached():
    source = (
        "import detect.ops as o\nfrom detect import _a\nfrom detect.b import c as d\no.x._e\nd._f\nself._g\nd.__doc__"
    )
    assert set(private_names(source)) == {"_a", "_e", "_f"}
