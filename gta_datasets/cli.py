"""The command line: the same words as the Python interface."""

from __future__ import annotations

import ast
import importlib.metadata
import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import minari
import typer

from gta_datasets.atomic import atomic_write
from gta_datasets.augment import augment, cache_root, open_dataset
from gta_datasets.comparison import compare as compare_datasets
from gta_datasets.config import GTAConfig
from gta_datasets.dataset import GTAAugmentedDataset
from gta_datasets.errors import CacheError, ConfigError, GTADatasetsError
from gta_datasets.inventory import check, describe
from gta_datasets.methods import METHODS
from gta_datasets.page import check_page
from gta_datasets.presets import PRESETS, TASKS
from gta_datasets.store import ShardStore, list_stores

__all__ = ["main", "parse_setting"]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(no_args_is_help=True, add_completion=False)
cache = typer.Typer(no_args_is_help=True, help="Look after the cache.")
app.add_typer(cache, name="cache")

DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="Id of a Minari dataset on this machine.")]
Method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]
Preset = Annotated[str, typer.Option(help=f"One of {', '.join(('auto', *PRESETS))}.")]
Task = Annotated[str | None, typer.Option(help=f"GTA's settings for a kind of task: {', '.join(TASKS)}.")]
Transitions = Annotated[int | None, typer.Option(help="How many to generate; default: as many as the source has.")]
Seed = Annotated[int, typer.Option(help="Seed of training and generation.")]
Device = Annotated[str, typer.Option(help="A torch device, or auto.")]
CacheDir = Annotated[Path | None, typer.Option(help="Folder of the cache; default: GTA_DATASETS_CACHE or the user's.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A field of the configuration, such as alpha=1.2.")]
Trust = Annotated[bool, typer.Option("--trust", help="The environment that the dataset names may be of any package.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gta-datasets {importlib.metadata.version('gta-datasets')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Augments offline-RL datasets."""


@app.command("augment")
def augment_command(
    dataset: DatasetId,
    method: Method = "gta",
    preset: Preset = "auto",
    task: Task = None,
    num_transitions: Transitions = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache_dir: CacheDir = None,
    settings: Settings = None,
    trust: Trust = False,
    quiet: Quiet = False,
    workers: Annotated[int, typer.Option(help="Processes that generate.")] = 1,
) -> None:
    """Train on a dataset, if need be, and generate everything that is missing."""
    source = open_dataset(dataset, trust=trust)
    augmented = _augment(source, method, preset, task, num_transitions, seed, device, cache_dir, settings, quiet)
    augmented.generate(workers)
    typer.echo(f"{len(augmented.generated)} trajectories, {augmented.generated.total_steps} transitions")
    if augmented.path.exists():  # not every method stores something
        typer.echo(f"cache: {augmented.path}")


@app.command()
def quality(
    dataset: DatasetId,
    method: Method = "gta",
    preset: Preset = "auto",
    task: Task = None,
    num_transitions: Transitions = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache_dir: CacheDir = None,
    settings: Settings = None,
    trust: Trust = False,
    quiet: Quiet = False,
    report: Annotated[Path | None, typer.Option(dir_okay=False, help="Write an HTML report here as well.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what is generated against its source."""
    source = open_dataset(dataset, trust=trust)
    augmented = _augment(source, method, preset, task, num_transitions, seed, device, cache_dir, settings, quiet)
    found = augmented.quality() if report is None else augmented.report(report)
    typer.echo(found.to_json() if as_json else found.table())


@app.command()
def compare(
    dataset: DatasetId,
    methods: Annotated[str, typer.Option(help="Names of methods with commas between them.")] = ",".join(METHODS),
    preset: Preset = "auto",
    task: Task = None,
    num_transitions: Transitions = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache_dir: CacheDir = None,
    settings: Settings = None,
    trust: Trust = False,
    quiet: Quiet = False,
    report: Annotated[Path, typer.Option(dir_okay=False, help="The HTML page.")] = Path("comparison.html"),
) -> None:
    """Measure several methods side by side and write a page that tells which to use.

    A field given by --set counts for the methods that have it, and --task for gta.
    """
    names = [name.strip() for name in methods.split(",")]
    source = open_dataset(dataset, trust=trust)
    versions = {}
    for name in names:
        known = _known_to(name, names, settings or [])
        kind = task if name == GTAConfig.method or GTAConfig.method not in names else None
        versions[name] = _augment(source, name, preset, kind, num_transitions, seed, device, cache_dir, known, quiet)
    for name, found in compare_datasets(versions, report).items():
        typer.echo(f"{name}\n{found.table()}\n")
    typer.echo(f"report: {report}")


@app.command()
def export(
    dataset: DatasetId,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Id of the new Minari dataset.")],
    method: Method = "gta",
    preset: Preset = "auto",
    task: Task = None,
    num_transitions: Transitions = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache_dir: CacheDir = None,
    settings: Settings = None,
    trust: Trust = False,
    quiet: Quiet = False,
    include_source: Annotated[bool, typer.Option(help="Write the source's episodes before the generated ones.")] = True,
) -> None:
    """Write source and generated episodes as an ordinary Minari dataset."""
    source = open_dataset(dataset, trust=trust)
    augmented = _augment(source, method, preset, task, num_transitions, seed, device, cache_dir, settings, quiet)
    augmented = augmented if include_source else augmented.generated
    typer.echo(f"{augmented.export(target).storage.data_path}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("demo-report"),
    device: Device = "cpu",
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
) -> None:
    """Augment an embedded HalfCheetah dataset and write a report with plots."""
    from gta_datasets.demo import make_demo_dataset

    page = check_page(output / "report.html")
    source = make_demo_dataset()
    augmented = augment(source, preset="demo", device=device, cache_dir=cache_dir, progress=not quiet).generate()
    found = augmented.report(page)
    atomic_write((output / "quality.json").resolve(), found.to_json().encode())
    typer.echo(f"{found.table()}\n\nreport: {page}")


@cache.command("ls")
def cache_ls(cache_dir: CacheDir = None) -> None:
    """List what the cache holds: keys, sizes, what was made of which dataset by which method, and unusual settings.

    Exit code 1 if an entry cannot be described.
    """
    stores = _stores(cache_dir)
    damaged = False
    for store in stores:
        line = store.key
        try:
            line += f"  {store.nbytes / 1e6:9.1f} MB  {len(store.indices()):5d} shards"
            line += f"  {describe(store)}"
        except CacheError as error:
            line += f"  {error}"
            damaged = True
        typer.echo(line)
    if not stores:
        typer.echo(f"the cache {cache_root(cache_dir)} is empty")
    raise typer.Exit(code=int(damaged))


@cache.command("verify")
def cache_verify(cache_dir: CacheDir = None) -> None:
    """Check all shards, models and manifests. Exit code 1 if something is damaged.

    Damaged shards are set aside and made again when next read; of everything else it is said what to do.
    """
    shards = models = manifests = damaged = 0
    for store in _stores(cache_dir):
        found = check(store)
        shards += found.shards
        models += found.models
        manifests += found.manifests
        damaged += len(found.damaged)
        for sentence in found.damaged:
            typer.echo(sentence)
    typer.echo(f"checked {shards} shards, {models} files of models and {manifests} manifests: {damaged} damaged")
    raise typer.Exit(code=int(damaged > 0))


@cache.command("clear")
def cache_clear(
    key: Annotated[list[str] | None, typer.Argument(help="Keys to delete, as `ls` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all keys.")] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Delete models and shards."""
    if everything == bool(key):
        raise ConfigError(
            f"give the keys to delete, as `cache ls` lists them, or --all for everything in {cache_root(cache_dir)}"
        )
    stores = {store.key: store for store in _stores(cache_dir)}
    unknown = sorted(set(key or ()) - set(stores))
    if unknown:
        raise ConfigError(f"the cache has no key {', '.join(unknown)}; `cache ls` lists those it has")
    for name in key or stores:
        stores[name].clear()
        typer.echo(f"deleted {name}")


def _stores(cache_dir: Path | None) -> list[ShardStore]:
    return list_stores(cache_root(cache_dir))


def _augment(
    dataset: minari.MinariDataset,
    method: str,
    preset: str,
    task: str | None,
    num_transitions: int | None,
    seed: int,
    device: str,
    cache_dir: Path | None,
    settings: list[str] | None,
    quiet: bool,
) -> GTAAugmentedDataset:
    return augment(
        dataset,
        method,
        preset=preset,
        task=task,
        num_transitions=num_transitions,
        seed=seed,
        device=device,
        cache_dir=cache_dir,
        progress=not quiet,
        **dict(parse_setting(setting, method) for setting in settings or ()),
    )


def _known_to(method: str, methods: list[str], settings: list[str]) -> list[str]:
    """Those settings that one of several methods has; one that none has stays, so that it is named in the error."""

    def knows(name: str, setting: str) -> bool:
        return name in METHODS and setting.partition("=")[0] in METHODS[name].keywords()

    return [
        setting for setting in settings if knows(method, setting) or not any(knows(name, setting) for name in methods)
    ]


def parse_setting(setting: str, method: str = "gta") -> tuple[str, Any]:
    """Name and value of `name=value`, the value in JSON, in Python or a plain word.

    Raises:
        ConfigError: it is none, or the method has no such setting.
    """
    name, equals, text = setting.partition("=")
    known = METHODS.get(method, GTAConfig).keywords()  # of an unknown method, augment() says so
    if name in ("cache_dir", "device", "num_transitions", "preset", "seed", "task"):
        raise ConfigError(f"{name} is an option of its own: --{name.replace('_', '-')}")
    if not equals or name not in known:
        raise ConfigError(f"{setting} is not name=value with one of {', '.join(sorted(known))}")
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            return name, read(text)
    return name, text


def main() -> None:
    """Run the command line; errors are one line on standard error and exit code 2, Ctrl-C is 130."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise
    except (GTADatasetsError, MemoryError, OSError) as error:
        typer.secho(f"error: {str(error) or type(error).__name__}", err=True, fg=typer.colors.RED)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
