"""`tuban data`: data sets listed, verified, counted and looked at; public ones, and folders of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuban.console import show
from tuban.errors import PartialError, UsageError
from tuban.options import Json

if TYPE_CHECKING:
    from tuban.data.dataset import DatasetFolder

data_app = typer.Typer(no_args_is_help=True, help="Data sets: public ones, and folders of your own.")

Where = Annotated[
    list[str],
    typer.Argument(
        metavar="[DATASET] FOLDER",
        help="The folder; before it the data set's name or YAML file, where the folder does not tell.",
    ),
]


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """What is known about each public data set."""
    from tuban.data.catalog import catalogue

    rows = catalogue()
    lines = [f"{row['id']}: {row['title']}; {row['licence']}" for row in rows]
    show(
        {"datasets": rows}, [*lines, "your own folder: describe it in dataset.yaml (docs/datasets.md)"], as_json=as_json
    )


@data_app.command("verify")
def data_verify(where: Where, as_json: Json = False) -> None:
    """Whether the folder of a data set is intact; exit code 3 where it is not."""
    from tuban.data.catalog import verify

    folder = _folder(where)
    found = verify(folder)
    lines = [
        f"{' '.join(word for word in (fault.item, fault.role) if word)}: {fault.problem} -> {fault.remedy}"
        for fault in found.faults
    ]
    total = f"{found.items} items, {found.files} files, {len(found.faults)} faults"
    known = f"{found.dataset} ({found.layout}): {total}"
    show(found.summary(), [*lines, *(f"note: {note}" for note in found.notes), known], as_json=as_json)
    if not found.ok:
        raise PartialError(f"{folder.path}: {len(found.faults)} faults in {found.items} items, listed above")


@data_app.command("stats")
def data_stats(
    where: Where,
    picture: Annotated[Path | None, typer.Option(help="PNG to draw of random samples with their labels.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples in the picture.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the draw of samples.")] = 0,
    as_json: Json = False,
) -> None:
    """What is in the folder of a data set: pixels, class balance, dates, extents; a picture of samples."""
    from tuban.data.dataset_stats import lines, stats
    from tuban.data.sample_picture import draw_samples

    folder = _folder(where)
    found = stats(folder)
    said = lines(found)
    if picture is not None:
        shown = draw_samples(folder, picture, count=samples, seed=seed)
        found["picture"] = {"path": str(picture), "items": shown}
        said.append(f"picture: {picture}")
    show(found, said, as_json=as_json)


@data_app.command("split")
def data_split(
    where: Where,
    share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the places in test and validation.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    as_json: Json = False,
) -> None:
    """What to train on: the authors' split, or whole groups of places drawn; as arguments of `tuban train`."""
    from tuban.data.splits import choose_split

    parts = choose_split(_folder(where), share=share, seed=seed)
    listed = {key: ",".join(f"'{name}'" for name in parts[part]) for key, part in _PARTS.items()}
    # Quoted for the shell that the lines are pasted into.
    show(parts, [f'"data.{key}=[{names}]"' for key, names in listed.items()], as_json=as_json)


_PARTS = {"validation": "validation", "holdout": "test"}


def _folder(where: list[str]) -> DatasetFolder:
    from tuban.data.dataset import open_folder

    if len(where) > 2:
        raise UsageError(f"{len(where)} arguments: {' '.join(where)}; give a folder, or a data set's name and a folder")
    return open_folder(where[-1], where[0] if len(where) == 2 else None)
