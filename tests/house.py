"""The project's rules, checked by reading the sources: who may import whom, path code, the root, tool directives.

`problems(root)` returns a line for each violation: the file, what it does, and the rule that this breaks.
"""

import ast
from pathlib import Path

LIBRARY = "text_cls"
SIX = ("export_model.py", "metric.py", "predict.py", "prune.py", "train.py", "utils.py")
# Folders of text_cls ("": its top level), and the folders that each may import besides itself.
ORDER = {"": (), "search": ("",), "serving": ("", "search"), "neural": ("", "serving")}
PADDLE = ("paddle", "paddlenlp")
PATH_LINE = 'sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))'
DIRECTIVES = tuple("# " + words for words in ("no" + "qa", "fmt:" + " skip", "fmt:" + " off"))
ENTRY_POINTS = ('if __name__ == "__main__":', "class TritonPythonModel")  # Triton starts the latter
IGNORED = ("__pycache__", "build", "models", "quickstart")  # what pip, build_repository.py and make leave


def problems(root):
    """All violations in the project's folder `root`, as lines."""
    project = Project(root)
    checks = (scripts_in_library, cycles, folders, paddle, root_files, path_code, directives)
    return [line for check in checks for line in check(project)]


class Project:
    """sources: {path from the root, with slashes: text} of the project's Python files. modules: {dotted name: path}."""

    def __init__(self, root):
        found = (path.relative_to(root) for path in sorted(Path(root).rglob("*.py")))
        paths = [p for p in found if not any(part.startswith(".") or part in IGNORED for part in p.parts)]
        self.sources = {path.as_posix(): (Path(root) / path).read_text(encoding="utf-8") for path in paths}
        self.library = [path for path in self.sources if path.startswith(f"{LIBRARY}/")]
        self.modules = {dotted(path): path for path in self.library}
        # Folders of scripts are on sys.path, so that their modules are imported by their bare names.
        self.others = {Path(path).stem for path in self.sources if path not in self.library}

    def imports(self, path):
        """Names of the modules that a file imports, at any depth; "a.b" for `from a import b` if that is a module."""
        for node in ast.walk(ast.parse(self.sources[path])):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = dotted(path).split(".")
                if not path.endswith("__init__.py"):
                    package = package[:-1]
                base = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:
                    name = f"{base}.{alias.name}"
                    yield name if name in self.modules else base

    def edges(self, path):
        """Modules of the library that a file of it imports."""
        return {name for name in self.imports(path) if name in self.modules} - {dotted(path)}


def dotted(path):
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def folder(module):
    """The folder of text_cls that a module is in: "" for the top level."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else ""


def scripts_in_library(project):
    for path in project.library:
        for name in sorted(set(project.imports(path))):
            if name.split(".")[0] in project.others - {LIBRARY}:
                yield f"{path} imports {name}: nothing in {LIBRARY} imports a script, or a module outside {LIBRARY}"


def cycles(project):
    """One line for each module that can be reached from itself."""
    edges = {name: project.edges(path) for name, path in project.modules.items()}
    for start in edges:
        trail, seen = [(start, (start,))], set()
        while trail:
            name, way = trail.pop()
            for following in edges[name]:
                if following == start:
                    yield f"{project.modules[start]}: {' > '.join((*way, start))}: no import cycles in {LIBRARY}"
                    trail = []
                    break
                if following not in seen:
                    seen.add(following)
                    trail.append((following, (*way, following)))


def folders(project):
    for path in project.library:
        own = folder(dotted(path))
        for name in sorted(project.edges(path)):
            if folder(name) not in (own, *ORDER[own]):
                allowed = ", ".join(each or "the top level" for each in ORDER[own]) or "nothing else"
                yield f"{path} imports {name}: {own or 'the top level'} of {LIBRARY} imports {allowed}"


def paddle(project):
    for path in project.sources:
        in_library = path in project.library and folder(dotted(path)) != "neural"
        if not in_library and not path.startswith("deploy/"):
            continue
        for name in sorted(set(project.imports(path))):
            if name.split(".")[0] in PADDLE:
                yield f"{path} imports {name}: in {LIBRARY}, only neural imports Paddle, and deploy/ never does"
            elif path.startswith("deploy/") and name.startswith(f"{LIBRARY}.neural"):
                yield f"{path} imports {name}: deploy/ works without {LIBRARY}.neural, which needs Paddle"


def root_files(project):
    for path in sorted({path for path in project.sources if "/" not in path} ^ set(SIX)):
        what = "is missing" if path in SIX else "does not belong here"
        yield f"{path} {what}: the root has exactly {', '.join(SIX)}"


def path_code(project):
    for path, text in project.sources.items():
        if path.startswith("tests/"):
            continue
        lines = [line for line in text.splitlines() if "sys.path" in line]
        is_script = any(start in text for start in ENTRY_POINTS)
        if is_script and "/" in path:
            if lines != [PATH_LINE]:
                yield f"{path}: a script outside the root has this line, and no other with sys.path: {PATH_LINE}"
        elif lines:
            yield f"{path} mentions sys.path: {'scripts in the root' if is_script else 'modules'} never touch it"


def directives(project):
    for path, text in project.sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            for words in DIRECTIVES:
                if words in line:
                    yield f"{path}:{number}: {words}: change the code, or the settings in pyproject.toml"
