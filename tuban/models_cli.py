"""`tuban models`: bundles listed, shown, made and imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuban.console import show
from tuban.errors import UsageError
from tuban.options import Json, require_train

if TYPE_CHECKING:
    from tuban.models.bundle import Bundle

Out = Annotated[Path, typer.Option("--out", help="Folder of the bundle.")]

models_app = typer.Typer(no_args_is_help=True, help="Model bundles.")


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """The installed bundles."""
    from tuban.models.bundle import installed

    rows = [_bundle_facts(bundle) for bundle in installed()]
    lines = [
        f"{row['name']} {row['version']}: {row['task']}; {', '.join(row['bands'])}; "
        f"{row['gsd_m'][0]:g}–{row['gsd_m'][1]:g} m"
        for row in rows
    ]
    show({"models": rows}, lines, as_json=as_json)


@models_app.command("show")
def models_show(name: str, as_json: Json = False) -> None:
    """One bundle: its folder and its model card."""
    from tuban.models.bundle import resolve

    bundle = resolve(name)
    card = bundle.path / "MODEL_CARD.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"{bundle.name} has no MODEL_CARD.md"
    show(_bundle_facts(bundle), [str(bundle.path), "", text], as_json=as_json)


@models_app.command("export")
def models_export(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Folder that `tuban train` wrote; several are members of one network. With --variant, a bundle."
        ),
    ],
    out: Out,
    card: Annotated[
        str | None, typer.Option(help="Release card: a name under configs/release, or a YAML file.")
    ] = None,
    crossval: Annotated[
        Path | None, typer.Option(help="crossval.json of the same settings, or its folder, or other measurements.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="int8 or bf16: a smaller form of a bundle.")] = None,
    imagery: Annotated[
        Path | None, typer.Option(help="With --variant: images that calibrate it and that it is measured on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle from a training run, or a smaller form of a bundle: checked, measured, with its card."""
    require_train("an export", "torch", "onnx", "safetensors")
    if variant is None:
        if card is None or imagery is not None:
            raise UsageError("a run is exported with --card NAME (and --crossval); --imagery belongs to --variant")
        from tuban.training.release import release

        bundle = release([Path(run) for run in source], crossval, out, card=card)
    else:
        alone = len(source) == 1 and card is None and crossval is None
        if variant not in ("int8", "bf16") or imagery is None or not alone:
            raise UsageError(
                f"--variant {variant}: use int8 or bf16 of one bundle with --imagery FOLDER, without --card and "
                "--crossval"
            )
        from tuban.models.bundle import resolve
        from tuban.training.variants import make_variant

        bundle = make_variant(resolve(source[0]), out, kind="int8" if variant == "int8" else "bf16", imagery=imagery)
    lines = [f"{bundle.model_id}: {bundle.path}"]
    measured = bundle.training.get("variant")
    if isinstance(measured, dict) and isinstance(measured["measured"], dict):
        lines += [f"  {name}: {value}" for name, value in measured["measured"].items()]
    show(_bundle_facts(bundle), lines, as_json=as_json)


@models_app.command("import")
def models_import(
    source: Annotated[
        Path, typer.Argument(help="Folder of a SavedModel, a .onnx file, or .safetensors or .pth weights.")
    ],
    out: Out,
    spec: Annotated[str, typer.Option(help="What it is: dynamicworld, or a YAML file (docs/models.md).")],
    tf_python: Annotated[
        Path | None, typer.Option(help="Python that has tensorflow and tf2onnx, for a SavedModel.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle of a model made elsewhere; nothing of it is executed but its graph."""
    from tuban.models.importing import import_model

    bundle = import_model(source, out, card=spec, python=tf_python)
    show(_bundle_facts(bundle), [f"{bundle.model_id}: {bundle.path}"], as_json=as_json)


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    fields = ("name", "version", "task", "bands", "required_bands", "gsd_m", "units", "classes", "threshold", "metrics")
    facts = bundle.model_dump(mode="json", by_alias=False)
    return {"path": str(bundle.path), "id": bundle.model_id, **{field: facts[field] for field in fields}}
