"""Lists the commands of kws: each is a module, and its docstring is its help."""

import ast
import sys
from pathlib import Path

from kws import __version__


def main() -> None:
    if "--version" in sys.argv:
        print(f"kws {__version__}")
        return
    print(f"kws {__version__}\n")
    package = Path(__file__).parent
    for path in [*sorted(package.glob("*.py")), *sorted(package.glob("benchmarks/*.py"))]:
        source = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in source and path.stem not in ("config", "__main__"):
            name = ".".join(path.relative_to(package).with_suffix("").parts)
            print(f"  python -m kws.{name:<21} {ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    print("\nEach shows its examples and every setting with --help.")


main()
