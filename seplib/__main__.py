"""Command line: ``python -m seplib`` (Sec. A.12)."""

import sys
from pathlib import Path
from typing import Annotated

try:
    import typer

    from seplib.own import pictures, solids
    from seplib.reproduce import profiles, runner
    from seplib.targets import meshes
    from seplib.targets.files import check_output
except ModuleNotFoundError as error:
    sys.exit(f"seplib: error: the command needs {error.name}: pip install 'seplib[data,reproduce]'")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _main() -> None:
    """Reproduce the paper: run its notebooks, collect its claims; fit images of your own."""


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="Name of a notebook in notebooks/, without its ending.")],
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(profiles.NAMES)}.")] = "smoke",
    device: Annotated[str, typer.Option(help=f"One of {profiles.DEVICES}.")] = "auto",
    parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, as in seed=3.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Execute one notebook; its results go to results/PROFILE/."""
    _positive(threads=threads)
    path = runner.execute(notebook, profile, device, runner.parsed(parameter or []), threads)
    typer.echo(path.relative_to(Path.cwd().resolve()))


@app.command()
def collect(profile: Annotated[str, typer.Option(help=f"One of {', '.join(profiles.NAMES)}.")] = "smoke") -> None:
    """Gather what the notebooks recorded in results/PROFILE/claims.json."""
    from seplib.reproduce import claims, store

    profiles.get(profile)
    results = Path("results") / profile
    if profile != "smoke":
        for run in store.keep(results, runner.cache(Path.cwd())):
            typer.echo(
                f"the run {run}, which a record names, is neither in the cache nor in {results / 'runs'}", err=True
            )
    typer.echo(claims.save_collected(results))


@app.command()
def audit(
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks at a time.")] = 2,
    runs: Annotated[int, typer.Option(min=0, help="Stored runs, drawn at random, to compute anew.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Of the draw.")] = None,
) -> None:
    """Execute the notebooks at paper from the stored runs and compare with what is committed; status 1 if anything differs."""
    from seplib.reproduce import audit as audits

    root = Path.cwd()
    found = audits.audit(root, jobs, say=typer.echo)
    for name, reason in found.skipped.items():
        typer.echo(f"{name}: not audited, {reason}")
    for line, agrees in audits.replays(root / "results" / "paper", runs, seed):
        typer.echo(line)
        found.findings += [] if agrees else [line]
    for line in found.findings:
        typer.echo(f"differs: {line}")
    typer.echo(f"{len(found.checked)} notebooks audited, {len(found.skipped)} not, {len(found.findings)} differences")
    if found.findings:
        raise typer.Exit(1)


@app.command()
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help=f"Image; array with two or three axes, .npy; or mesh, {', '.join(meshes.MESHES)}.", readable=False
        ),
    ],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(pictures.METHODS)}.")] = "seppgd",
    inpaint: Annotated[
        Path | None, typer.Option(help="Image of the same size, bright where pixels are missing.", readable=False)
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(),
    iterations: Annotated[int | None, typer.Option(help="Number of updates; 1300, in 3-D 1000.")] = None,
    rank: Annotated[int | None, typer.Option(help="R; 500, in 3-D 200.")] = None,
    width: Annotated[int | None, typer.Option(help="W; 500, in 3-D 256.")] = None,
    k: Annotated[int | None, typer.Option(help="Modulated eigenvalues; 70, in 3-D 20, or the shortest side.")] = None,
    resolution: Annotated[int, typer.Option(help="Of a mesh: voxels along its longest side.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the initial weights.")] = 0,
    device: Annotated[str, typer.Option(help=f"One of {profiles.DEVICES}.")] = "auto",
) -> None:
    """Fit an image or a volume of your own; writes NAME-fit with .png or .npy and .ply, and the network as .npz."""
    if inpaint and solids.is_volume(data):
        raise ValueError(f"only an image can be inpainted, got {data}")
    _positive(iterations=iterations, rank=rank, width=width)
    target = profiles.resolve_device(device)
    profiles.check_seed(seed)
    own = solids.read(data, resolution) if solids.is_volume(data) else None
    values = own.values if own else pictures.read(data)
    mask = pictures.read_mask(inpaint, values) if inpaint else None
    settings = solids.SETTINGS if values.ndim == 4 else pictures.SETTINGS
    settings = settings | {"k": min(settings["k"], *values.shape[1:])}
    chosen = dict(rank=rank, width=width, k=k, iterations=iterations)
    settings |= {name: value for name, value in chosen.items() if value is not None}
    picture, network = (output / f"{data.stem}-fit{ending}" for ending in (".png", ".npz"))
    room = pictures.stored_bytes(values.shape, settings["rank"], settings["width"])
    check_output(solids.outputs(own, output) if own else [network, picture], room)
    fitted = pictures.fit_picture(values, method, mask=mask, seed=seed, device=target, **settings)
    if own:
        paths, quality = solids.save(own, fitted, output), own.quality(fitted)
    else:
        paths = pictures.save(fitted, picture, network)
        quality = f"PSNR {fitted.psnr:.2f} dB{' on the known pixels' if inpaint else ''}"
    typer.echo(f"{quality}, {fitted.seconds:.0f} s")
    typer.echo("\n".join(map(str, paths)))


def _positive(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit status 1 (Sec. A.12)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        app()
    except (ValueError, OSError, MemoryError, FloatingPointError, runner.NotebookError) as error:
        sys.exit(f"seplib: error: {error}")


if __name__ == "__main__":
    main()
