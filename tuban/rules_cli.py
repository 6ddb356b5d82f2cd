"""`tuban rules`: rule packs listed, explained, tested and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tuban.console import show
from tuban.errors import TubanError, UsageError
from tuban.options import Json, Rules, day

rules_app = typer.Typer(no_args_is_help=True, help="Rule packs: dated rules of a jurisdiction.")

Lang = Annotated[str, typer.Option(help="Language of the words: zh or en.")]
Day = Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD: the rules in force on that day.")]


@rules_app.command("list")
def rules_list(
    rules: Annotated[str | None, typer.Option(help="One pack: a name, or a YAML file. Default: all shipped.")] = None,
    date: Day = None,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """The packs and their rules."""
    from tuban.postprocess.rulebook import rule_rows
    from tuban.postprocess.rules import load_pack, pack_names

    on, lang = day(date), _lang(lang)
    packs = [load_pack(name) for name in ([rules] if rules else pack_names())]
    rows: list[dict[str, Any]] = [
        {"pack": pack.id, "version": pack.version, "title": pack.title[lang], "source": pack.source,
         "effective_from": str(pack.effective_from), "rules": rule_rows(pack, on, lang)}
        for pack in packs
    ]  # fmt: skip
    lines = []
    for row in rows:
        lines.append(f"{row['pack']} {row['version']}: {row['title']}")
        lines += [
            f"  {r['id']:<6} {r['severity']:<6} {r['effective_from']}~{r['effective_to']:<10} [{r['mark']}] "
            f"{r['title']}"
            for r in row["rules"]
        ]
    show({"packs": rows}, lines, as_json=as_json)


@rules_app.command("explain")
def rules_explain(
    rule: Annotated[str, typer.Argument(help="Id of the rule.", metavar="RULE")],
    rules: Rules = "cn",
    date: Day = None,
    lang: Lang = "zh",
    as_json: Json = False,
) -> None:
    """One rule in words: what it asks, its thresholds, basis, dates, evidence and examples."""
    from tuban.postprocess.rulebook import explain
    from tuban.postprocess.rules import load_pack

    found = explain(load_pack(rules), rule, day(date), _lang(lang))
    show(found, _explained(found, zh=lang == "zh"), as_json=as_json)


@rules_app.command("test")
def rules_test(
    pack: Annotated[str, typer.Argument(help="A name, or the path of a YAML file.", metavar="PACK_OR_FILE")],
    as_json: Json = False,
) -> None:
    """Run the worked examples of a pack; exit 1 where one does not come out as it says."""
    from tuban.postprocess.rule_examples import run_examples
    from tuban.postprocess.rulebook import lacking
    from tuban.postprocess.rules import load_pack

    loaded = load_pack(pack)
    results = run_examples(loaded)
    failures = [r for r in results if r.problem]
    gaps = lacking(loaded)
    lines = [f"{r.rule} {r.kind} {r.example!r}: {r.problem}" for r in failures]
    summary = {
        "pack": loaded.name, "source": loaded.source, "rules": len(loaded.rules), "examples": len(results),
        "failures": [{"rule": r.rule, "kind": r.kind, "example": r.example, "problem": r.problem} for r in failures],
        "lacking": gaps,
    }  # fmt: skip
    totals = f"{loaded.name}: {len(results)} examples of {len(loaded.rules)} rules, {len(failures)} failed"
    show(summary, [*lines, *gaps, totals], as_json=as_json)
    if failures:
        raise TubanError(
            f"{loaded.source}: {len(failures)} of {len(results)} examples do not come out as they say, listed above; "
            "mend the rule or the example"
        )


@rules_app.command("replay")
def rules_replay(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `tuban check` or `tuban detect`.", metavar="RUN")],
    rules: Annotated[str | None, typer.Option(help="The pack, where it no longer lies where the run found it.")] = None,
    as_json: Json = False,
) -> None:
    """Judge every finding of a run again from its record; exit 1 where a verdict differs."""
    from tuban.postprocess.replay import replay

    result = replay(run, rules)
    summary = {"pack": result.pack, "rows": result.rows, "differences": result.differences}
    line = f"{result.rows} findings judged again with {result.pack}: {len(result.differences)} differ"
    show(summary, [*result.differences, line], as_json=as_json)
    if result.differences:
        raise TubanError(f"{run}: {len(result.differences)} verdicts differ from the record, listed above")


def _explained(found: dict[str, Any], *, zh: bool) -> list[str]:
    """Return the lines of an explanation."""
    heads = (
        ("判定条件", "阈值", "依据", "施行", "所需证据", "提示", "示例")
        if zh
        else ("asks", "thresholds", "basis", "in force", "evidence", "advice", "examples")
    )
    dates = "; ".join(found["versions"])
    blocks = [
        (heads[0], found["predicate"]),
        (heads[1], found["thresholds"]),
        (heads[2], [f"{found['basis']} [{found['mark']}: {found['mark_means']}]"]),
        (heads[3], [dates]),
        (heads[4], found["needs"]),
        (heads[5], [found["advice"]] if found["advice"] else []),
        (heads[6], [f"{e['kind']:<6} {e['name']} ({e['from']}->{e['to']}, {e['date']}): {_expected(e['expect'])}"
                    for e in found["examples"]]),
    ]  # fmt: skip
    lines = [f"{found['id']} {found['title']} ({found['pack']}, {found['severity']}, {found['route']})"]
    for head, texts in blocks:
        if texts:
            lines += [f"{head}:", *(f"  - {text}" for text in texts)]
    return lines


def _expected(expect: dict[str, Any]) -> str:
    return ", ".join(str(v) if k in {"status", "severity"} else f"{k} {v:g}" for k, v in expect.items())


def _lang(text: str) -> str:
    if text not in {"zh", "en"}:
        raise UsageError(f"--lang {text!r}: give zh or en")
    return text
