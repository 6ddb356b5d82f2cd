"""What holds for a whole check and has to be said: rules not in force, layers that are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuban.postprocess.rule_parts import PERMIT

if TYPE_CHECKING:
    from tuban.data.plan import Plan
    from tuban.postprocess.check_context import CheckContext
    from tuban.postprocess.rules import Rule, RulePack


def run_notes(rules: tuple[Rule, ...], plan: Plan, pack: RulePack, context: CheckContext) -> list[str]:
    """Return what holds for the whole run.

    Args:
        rules: those in force.
        plan: the layers, earlier findings among them.
        pack: all rules.
        context: dates and state of the pair.
    """
    return [*_dates(rules, pack, context), *_layers(rules, plan, pack), *_pair(plan, pack, context)]


def _dates(rules: tuple[Rule, ...], pack: RulePack, context: CheckContext) -> list[str]:
    said = []
    day, held = context.judged_on, {rule.id for rule in rules}
    if context.date_after is None:
        said.append(f"no date of the later scene: rules and permits of the day of the run, {day}")
    idle = dict.fromkeys(rule.id for rule in pack.rules if rule.id not in held)
    if idle:
        said.append(f"rules of {pack.name} not in force on {day}, so not applied: {', '.join(idle)}")
    before = context.date_before
    ended = [r for r in pack.rules if r not in rules and before and r.in_force(before)]
    if ended:
        names = ", ".join(f"{r.id} (to {r.effective_to})" for r in ended)
        said.append(f"rules that ended between {before} and {day}, check when work began: {names}")
    return said


def _layers(rules: tuple[Rule, ...], plan: Plan, pack: RulePack) -> list[str]:
    said = []
    absent = {rule.id: [role for role in rule.roles() if not plan.of(role)] for rule in rules if rule.judges}
    skips = {rule.id: rule.if_missing for rule in rules}
    skipped = {name: roles for name, roles in absent.items() if any(skips[name].get(r) == "skip" for r in roles)}
    needed = sorted({role for name, roles in absent.items() if name not in skipped for role in roles})
    if needed:
        said.append(f"the plan has no layer of role {', '.join(needed)}: rules that need it give undetermined")
    said += [f"{name} is left out: the plan has no layer of role {', '.join(roles)}" for name, roles in skipped.items()]
    said += [
        f"{rule.id} raises no severity: the plan has no layer of role {', '.join(rule.when.zones)}"
        for rule in rules if rule.uplift and not any(plan.of(role) for role in rule.when.zones)
    ]  # fmt: skip
    unknown = sorted({str(layer.kind) for layer in plan.of(PERMIT)} - set(pack.permits))
    if unknown:
        said.append(
            f"permits of kind {', '.join(unknown)} count for nothing: {pack.name} knows {', '.join(pack.permits)}"
        )
    return said


def _pair(plan: Plan, pack: RulePack, context: CheckContext) -> list[str]:
    said = []
    if plan.jurisdiction != pack.jurisdiction:
        said.append(f"the plan is of jurisdiction {plan.jurisdiction}, the rule pack of {pack.jurisdiction}")
    if context.downgraded:
        said.append(f"pair downgraded, suspected becomes inconclusive: {context.downgrade_reason}")
    return said
