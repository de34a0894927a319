"""How a command finds `conf/`, reads its command line and reports a user's mistakes."""

import functools
import inspect
import os
import re
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import MissingMandatoryValue

from kws import __version__
from kws.audio import AudioError
from kws.errors import KwsError
from kws.files import make_folder

# Keys whose value is a path, a word or a command line wherever they stand: never read as a number or a list.
PATH_KEYS = {
    "check",
    "input",
    "output",
    "checkpoint",
    "root",
    "path",
    "from",
    "init_from",
    "conf",
    "cache",
    "rooms",
    "labels",
    "noise",
    "alarms",
    "recordings",
    "line",
    "json",
    "save",
    "stop_word",
    "word",
    "speaker",
    "on_detect",
    "wav",
    "name",
    "peers_python",
    "runs",
    "vtln_map",
    "utt2spk",
}
FILES = ("json", "plot", "csv", "wav")  # what commands write beside their work, by key
# `resume=PATH` beside `resume.strict=true`: a mapping cannot also be a value, so the short form is spelled out; and the
# methods of `kws.compress` are the group compress.
SHORT_FORMS = {"resume": "resume.from", "method": "compress@method"}
# Settings of a run that change how a run is carried out and not what it computes.
HOW_TO_RUN = (
    "name", "runs", "hydra", "resume", "init_from", "init_overlap", "init_names", "data.workers", "train.workers",
    "train.threads", "train.device", "train.checkpoint_every", "train.tensorboard",
)  # fmt: skip


def conf_dir() -> Path:
    """The folder of the configuration: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise KwsError(f"no configuration found in {package}/conf or {package.parent}/conf: the installation is incomplete")


def _quoted(value: str) -> str:
    """A Hydra string literal for `value`, safe from interpolation as well."""
    value = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)  # OmegaConf reads ${...} even inside quotes
    value = re.sub(r"(\\*)'", lambda m: m[1] * 2 + r"\'", value)
    value = re.sub(r"(\\+)$", lambda m: m[1] * 2, value)
    return f"'{value}'"


def quote_override(argument: str, sweep: bool = False) -> str:
    """`key=value` so that Hydra takes any existing path literally, spaces, `=`, brackets and all.

    What a path key is given is always a string, an output folder that does not exist yet too, but for null and for the
    list of a `sweep`. Elsewhere what Hydra's grammar reads is left alone unless it is an existing path, and what the
    grammar refuses is taken as a string.
    """
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-") or not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key):
        return argument
    bare = key.lstrip("+~")
    key = key.replace(bare, SHORT_FORMS.get(bare, bare))
    name = key.rsplit(".", 1)[-1]
    if name in PATH_KEYS and not os.path.exists(value):
        value = os.path.expanduser(value)  # bash leaves ~ alone behind a key with a dot
    exists = value and os.path.exists(value)
    if not exists and re.fullmatch(r"""(['"])(\\.|(?!\1|\\).)*\1""", value, re.DOTALL):
        return f"{key}={value}"
    if name in PATH_KEYS and (exists or (value not in ("", "null") and not (sweep and "," in value))):
        return f"{key}={_quoted(value)}"
    if exists and not re.fullmatch(r"[\w./:+-]+", value, re.ASCII):
        return f"{key}={_quoted(value)}"
    try:
        OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return f"{key}={_list_of_words(value) or _quoted(value)}"
    return f"{key}={value}"


def _list_of_words(value: str) -> str | None:
    """A list that Hydra's grammar refuses for letters of its words, as [größe, don't], with these in quotes."""
    words = [word.strip() for word in value[1:-1].split(",")]
    if not re.fullmatch(r"\[[^\[\]{}]+\]", value) or not all(words):
        return None
    plain = re.compile(r"""'[^']*'|"[^"]*"|[\w.+-]+""", re.ASCII)
    return f"[{','.join(word if plain.fullmatch(word) else _quoted(word) for word in words)}]"


def command(config_name: str):
    """Decorator: a function of one DictConfig becomes a Hydra command whose help is its module's docstring."""

    def decorate(function):
        @functools.wraps(function)
        def run():
            sweep = bool({"-m", "--multirun"} & set(sys.argv))
            arguments = [quote_override(argument, sweep) for argument in sys.argv[1:]]
            if "--version" in arguments:
                print(f"kws {__version__}")
                return
            if "--help" in arguments or "-h" in arguments:
                print(inspect.getmodule(function).__doc__.strip())
                print(f"\nSettings, with what they mean: {conf_dir() / config_name}.yaml and the groups beside it\n")
            sys.argv[1:] = arguments
            try:
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(told)()
            except KeyboardInterrupt:
                raise SystemExit(130) from None
            except SystemExit as stop:  # Hydra exits with 1 where it refuses the command line
                raise SystemExit(2 if stop.code == 1 and not begun else stop.code) from None

        begun = []

        @functools.wraps(function)
        def told(cfg):  # inside Hydra, which would otherwise print a trace of its own
            begun.append(True)
            try:
                for name in FILES:
                    if not isinstance(cfg.get(name), str):
                        continue
                    if Path(cfg[name]).is_dir():
                        raise KwsError(f"{name}={cfg[name]}: is a folder; expected the name of a file")
                    if not Path(cfg[name]).parent.is_dir():
                        make_folder(name, Path(cfg[name]).parent)
                result = function(cfg)
                sys.stdout.flush()
                return result
            except (KwsError, AudioError) as error:
                reason = error
            except MissingMandatoryValue as error:
                reason = f"{error.full_key}=… is missing: --help shows examples"
            except InstantiationException as error:  # what a yaml's _target_ refused
                if not isinstance(error.__cause__, KwsError | ValueError | TypeError):
                    raise
                reason = error.__cause__
            except BrokenPipeError:  # whoever read the output has enough of it
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(128 + signal.SIGPIPE) from None
            print(f"error: {reason}", file=sys.stderr)
            raise SystemExit(2)

        return run

    return decorate


def check_labels(labels, where: str = "labels") -> list[str]:
    """The labels as a list of strings. YAML 1.1 turns unquoted yes, no, on, off into booleans: that is refused."""
    labels = list(labels)
    for label in labels:
        if not isinstance(label, str):
            quoted = "; yes, no, on, off and numbers need quotes in a yaml: write '\"yes\"', not 'yes'"
            hint = quoted * isinstance(label, bool | int | float)
            raise KwsError(f"{where}: {label!r} is a {type(label).__name__}, not a word{hint}")
    if len(set(labels)) != len(labels):
        raise KwsError(f"{where}: a word is listed twice in {labels}")
    return labels


def differences_between(old: dict, new: dict, prefix: str = "") -> list[str]:
    """What of a configuration changed, as "key: old → new", without what only says how a run is carried out."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        name, a, b = prefix + key, old.get(key), new.get(key)
        if a == b or name in HOW_TO_RUN:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences_between(a, b, name + ".")
        else:
            found.append(f"{name}: {a} -> {b}")
    return found
