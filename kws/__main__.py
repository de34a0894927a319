"""Lists the commands of kws: each is a module, and its docstring is its help."""

import ast
import sys
from pathlib import Path

from kws import __path__, __version__


def main() -> None:
    if "--version" in sys.argv:
        print(f"kws {__version__}")
        return
    print(f"kws {__version__}\n")
    package, found = Path(__file__).parent, [path for folder in __path__ for path in Path(folder).glob("*.py")]
    for path in [*sorted(found, key=lambda path: path.name), *sorted(package.glob("benchmarks/*.py"))]:
        source = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in source and path.stem not in ("config", "__main__"):
            name = "benchmarks." * (path.parent.name == "benchmarks") + path.stem
            print(f"  python -m kws.{name:<21} {ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    print("\nEach shows its examples and every setting with --help.")


main()
