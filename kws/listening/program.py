"""A program run for each word heard, without a shell."""

import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime

from kws.errors import KwsError

AT_ONCE = 4  # programs that may run; a word that comes on top runs none, and that is said
# What a program, or a shell that the user starts, could take for an option or a command of its own.
_UNSAFE = re.compile(r"""(^|\s)-|["!#$%&()*/;<=>?@\[\\\]^`{|}~+]""")


class Program:
    """Runs `line` without waiting for it: `%w` in its arguments is the word, `%s` the score, `%t` the local time, `%%`
    a percent sign. What it writes goes to standard error.

    Raises:
        KwsError: the program is not there, or a word could be taken for an option or a command.
    """

    def __init__(self, line: str, words: list[str]):
        try:
            self.arguments = shlex.split(line)
        except ValueError as error:
            raise KwsError(f"on_detect={line}: {error}") from None
        if not self.arguments or shutil.which(self.arguments[0]) is None:
            raise KwsError(f"on_detect={line}: no program {(self.arguments or [''])[0]!r} is found")
        if "%w" in line and (unsafe := [w for w in words if not w.isprintable() or _UNSAFE.search(w)]):
            raise KwsError(f"on_detect={line}: the word {unsafe[0]!r} could be taken for an option or a command")
        self._running: list[subprocess.Popen] = []

    def run(self, word: str, score: float, clock: float) -> None:
        """`clock`: the moment of the word, in seconds since 1970."""
        self.reap()
        name = self.arguments[0]
        if len(self._running) == AT_ONCE:
            print(f"on_detect: not run for {word}, {AT_ONCE} of {name} are running", file=sys.stderr, flush=True)
            return
        moment = datetime.fromtimestamp(clock).isoformat(timespec="milliseconds")
        values = {"w": word, "s": f"{score:.2f}", "t": moment, "%": "%"}
        arguments = [re.sub("%([wst%])", lambda m: values[m[1]], argument) for argument in self.arguments[1:]]
        try:
            # standard output (to 2, standard error) is for the words; in a session of its own Ctrl-C does not end it
            process = subprocess.Popen(
                [name, *arguments], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )  # fmt: skip
            self._running.append(process)
        except OSError as error:
            print(f"on_detect: {name} does not run ({error.strerror})", file=sys.stderr, flush=True)

    def reap(self) -> None:
        """Forgets the programs that have ended, and says which failed."""
        for process in [p for p in self._running if p.poll() is not None]:
            self._running.remove(process)
            if process.returncode:
                print(f"on_detect: {process.args[0]} exited with {process.returncode}", file=sys.stderr, flush=True)
