"""Serves spotters: as a page that listens in the browser, or to Home Assistant.

    python -m kws.serve checkpoint=spotter.onnx                       the page; open the address that it prints
    python -m kws.serve                                               the same; drop a spotter onto the page
    python -m kws.serve checkpoint=spotter.onnx static=DIR            the page as a folder, for any web server
    python -m kws.serve checkpoint=a.onnx,b.onnx protocol=wyoming     wake words for Home Assistant's Wyoming Protocol

The page works in the browser alone: no sound leaves it, and nothing is loaded from elsewhere. It needs two files of
onnxruntime-web, which npm fetches the first time. Settings:

    checkpoint=FILE        what kws.export wrote, or the name of a spotter that comes with kws; several: a.onnx,b.onnx
    protocol=page          or wyoming
    host=127.0.0.1         the address to listen at; any other than this computer's own lets others in
    port=null              null: 8000 for the page, 10400 for wyoming; 0: any that is free
    static=null            write the page into this folder, and serve nothing
    ort=null               a folder with onnxruntime-web's files; null: fetched with npm once, then kept in ~/.cache/kws
    decision.NAME=VALUE    in place of what the files say: threshold, release, smoothing_ms, refractory_ms, warm_up_ms
    clients=128            at a time, each on one connection; when all places are taken, the most silent makes room
    idle_s=3600            a wyoming client that says nothing for so many seconds is let go
    threads=2              that work on sound, for all wyoming clients together
    log=false              true: print each word that a wyoming client was told, and who was refused and why

Ctrl-C ends. Exit codes: 0 the end or Ctrl-C, 2 a mistake, which the message names.
"""

import asyncio
import contextlib
import signal
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import kws
from kws.decision import Decision
from kws.errors import KwsError
from kws.files import write
from kws.runtime import Spotter, file
from kws.serving import site
from kws.serving.door import Door
from kws.serving.web import LOCAL, Site
from kws.spotters import find_all

PORTS = {"page": 8000, "wyoming": 10400}


@dataclass
class Settings:
    """The command line. See the module's docstring."""

    checkpoint: list[str] = field(default_factory=list)
    protocol: str = "page"
    host: str = "127.0.0.1"
    port: int | None = None
    static: str | None = None
    ort: str | None = None
    clients: int = 128
    idle_s: float = 3600.0
    threads: int = 2
    log: bool = False
    decision: dict[str, float] = field(default_factory=dict)


def parse(arguments: list[str]) -> Settings:
    """The settings in NAME=VALUE arguments. Hydra is no part of what a device has, so they are read here.

    Raises:
        KwsError: a name or a value that cannot be.
    """
    settings = Settings()
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or (name not in vars(settings) and not name.startswith("decision.")) or name == "decision":
            raise KwsError(f"{argument}: no setting; python -m kws.serve --help lists them, as NAME=VALUE")
        try:
            if name == "checkpoint":
                settings.checkpoint = find_all(value)
            elif name.startswith("decision."):
                key, known = name.removeprefix("decision."), Decision.__init__.__kwdefaults__
                if key not in known:
                    raise KwsError(f"{argument}: decision. has {', '.join(known)}")
                settings.decision[key] = float(value)
            elif value == "null" and name in ("port", "static", "ort"):
                setattr(settings, name, None)
            elif name == "log":
                settings.log = {"true": True, "false": False}[value]
            elif name in ("port", "clients", "threads"):
                setattr(settings, name, int(value))
            else:
                setattr(settings, name, float(value) if name == "idle_s" else value)
        except (ValueError, KeyError):
            raise KwsError(f"{argument}: expected {'true or false' if name == 'log' else 'a number'}") from None
    if settings.protocol not in PORTS:
        raise KwsError(f"protocol={settings.protocol}: expected {' or '.join(PORTS)}")
    if settings.protocol == "wyoming" and not settings.checkpoint:
        raise KwsError("protocol=wyoming: checkpoint=spotter.onnx is missing (python -m kws.export makes one)")
    if settings.protocol == "wyoming" and settings.static:
        raise KwsError("static= is of protocol=page")
    for name in ("clients", "threads", "idle_s"):
        if not getattr(settings, name) > 0:
            raise KwsError(f"{name}={getattr(settings, name)}: expected more than 0")
    names = [Path(path).name for path in settings.checkpoint]
    if twice := {name for name in names if names.count(name) > 1}:
        raise KwsError(f"checkpoint: two files are called {twice.pop()}; each needs a name of its own")
    return settings


def version() -> str:
    """Of kws, or of kws-runtime where that is all there is."""
    return getattr(kws, "__version__", None) or metadata.version("kws-runtime")


def contents(settings: Settings) -> dict[str, bytes]:
    """The spotters' files, each with the decision that was asked for.

    Raises:
        ModelError: one is none.
        KwsError: its decision cannot be.
    """
    found = {}
    for path in settings.checkpoint:
        content, about = file.read(path)
        decision = {**about["decision"], **settings.decision}
        try:
            Decision(about["labels"], about["step_ms"], **decision)
        except (TypeError, ValueError) as error:
            raise KwsError(f"{path}: decision: {error}") from None
        found[Path(path).name] = file.write_about(content, {**about, "decision": decision})
    return found


def page(settings: Settings) -> Site | None:
    """What answers requests for the page; None where it was written instead."""
    found = site.files(contents(settings), settings.ort)
    if settings.static is None:
        return Site(found, settings.host)
    for name, content in found.items():
        write("static", Path(settings.static, name), content)
    print(f"{settings.static}: the page, {len(found)} files; a web server must serve it at https:// or to localhost")
    return None


def wyoming(settings: Settings):
    """What answers Home Assistant."""
    from kws.serving.wyoming import Wyoming

    contents(settings)  # says what is wrong with the decision
    spotters = {Path(path).name: Spotter(path) for path in settings.checkpoint}
    log = (lambda line: print(line, flush=True)) if settings.log else (lambda line: None)
    return Wyoming(spotters, settings.decision, settings.threads, settings.idle_s, version(), log)


async def serve(settings: Settings, service) -> None:
    """Until Ctrl-C."""
    port = PORTS[settings.protocol] if settings.port is None else settings.port
    async with Door(service.talk, settings.host, port, settings.clients) as door:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        if settings.protocol == "page":
            print(f"open http://{host}:{door.port}/ in a browser; Ctrl-C ends", flush=True)
        else:
            print(f"listening at tcp://{host}:{door.port} for: {', '.join(service.models)}", flush=True)
        if settings.host not in LOCAL:
            print(f"warning: everyone who can reach {host} can use this, without a password", file=sys.stderr)
        end = asyncio.Event()
        with contextlib.suppress(NotImplementedError):  # on Windows Ctrl-C raises KeyboardInterrupt by itself
            for each in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(each, end.set)
        await end.wait()


def main() -> None:
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"kws {version()}")
        return
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return
    try:
        settings = parse(arguments)
        service = page(settings) if settings.protocol == "page" else wyoming(settings)
        if service is not None:
            asyncio.run(serve(settings, service))
    except KeyboardInterrupt:
        pass
    except KwsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
