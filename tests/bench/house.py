"""What a reader of the code meets, in numbers: `python -m tests.bench.house`.

Prints a Markdown table, and the functions that one speech request passes through, by `tests.bench.passage`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import grimp

from tests.bench import passage

CHECKOUT = Path(__file__).parent.parent.parent
PACKAGE = "stepaudiod"
MAX_LINES = 400
LINES_BEFORE = 30_356
PRONOUNS = re.compile(r"\b(?:nobody|somebody|whoever|who|whom|everybody)\b", re.IGNORECASE)
SUFFIXES = (
    ".py",
    ".md",
    ".js",
    ".html",
    ".roff",
    ".toml",
    ".sh",
    ".service",
    ".socket",
    ".sysusers",
    ".tmpfiles",
)

Graph = dict[str, set[str]]


def tracked(*suffixes: str) -> list[Path]:
    """The files in version control with one of these suffixes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    paths = [CHECKOUT / name for name in listed.stdout.split("\0") if name.endswith(suffixes)]
    return [path for path in paths if path.is_file()]


def line_count(path: Path) -> int:
    """The number of newlines, as `wc -l`."""
    return path.read_bytes().count(b"\n")


def pronouns_per_1000_lines() -> float:
    """In code and documents, this file aside."""
    files = [path for path in tracked(*SUFFIXES) if path != Path(__file__)]
    found = sum(len(PRONOUNS.findall(path.read_text())) for path in files)
    return 1000 * found / sum(map(line_count, files))


def circles() -> list[str]:
    """Import circles between modules, and between the members of each package; lazy imports count too."""
    imports = grimp.build_graph(PACKAGE, cache_dir=None)
    modules = {module: set(imports.find_modules_directly_imported_by(module)) for module in imports.modules}
    found = {" ↔ ".join(circle) for circle in _components(modules)}
    for package in imports.modules:
        children = imports.find_children(package)
        top = {module: child for child in children for module in (child, *imports.find_descendants(child))}
        edges: Graph = {child: set() for child in children}
        for module, child in top.items():
            edges[child] |= {top[other] for other in modules[module] if other in top} - {child}
        found |= {" ↔ ".join(circle) for circle in _components(edges)}
    return sorted(found)


def _components(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one node."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in reach[node] if node in reach[other])) for node in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def rows() -> Iterable[tuple[str, str, str, list[str]]]:
    """What is measured, the goal, the value, and what it consists of."""
    sources = [path for path in tracked(".py") if path.is_relative_to(CHECKOUT / PACKAGE)]
    long = [
        f"{path.relative_to(CHECKOUT)}: {line_count(path)}"
        for path in sources
        if line_count(path) > MAX_LINES
    ]
    lines = sum(map(line_count, sources))
    front, worker = passage.functions()
    yield "words in README.md", "≤ 1,000", f"{len((CHECKOUT / 'README.md').read_text().split()):,}", []
    yield "personal pronouns in 1,000 lines", "≤ 0.3", f"{pronouns_per_1000_lines():.2f}", []
    yield "import circles", "0", str(len(found := circles())), found
    yield f"files over {MAX_LINES} lines in {PACKAGE}/", "0", str(len(long)), long
    change = f"{100 * (lines / LINES_BEFORE - 1):+.1f} %"
    yield f"lines of {PACKAGE}/", f"≤ {0.9 * LINES_BEFORE:,.0f}", f"{lines:,} ({change})", []
    stops = [*(f"front   {name}" for name in front), *(f"worker  {name}" for name in worker)]
    yield (
        "functions that a speech request passes through, from route to bytes",
        "≤ 16",
        str(len(stops)),
        stops,
    )


def main() -> None:
    """Print the table, and below it what the numbers consist of."""
    table = list(rows())
    print("| what | goal | measured |\n| --- | --- | --- |")
    for what, goal, measured, _ in table:
        print(f"| {what} | {goal} | {measured} |")
    for what, _, _, parts in table:
        if parts:
            print(f"\n{what}:", *parts, sep="\n  ")


if __name__ == "__main__":
    main()
