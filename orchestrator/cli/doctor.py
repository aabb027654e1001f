"""`doctor`: reports what is missing on this machine."""

from __future__ import annotations

from orchestrator.cli.options import JsonOption, doing, print_json, print_line


def doctor(as_json: JsonOption = False) -> int:
    """Check this machine, and show how to fix each problem.

    Exit status: 0 if a sweep can run, 1 if a problem must be fixed first.
    """
    from dataclasses import asdict

    from orchestrator.cli.machine_checks import examine

    with doing("checking this machine"):
        checks = examine()
    if as_json:
        print_json([asdict(check) | {"ok": check.is_ok} for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark, style = ("--", "red") if check.fix else ("note", "yellow") if check.note else ("ok", None)
            print_line(f"{mark:4}  {check.name:{width}}  {check.found}", style=style)
            if mend := check.fix or check.note:
                print_line(f"      → {mend}", style=style)
    return 0 if all(check.is_ok for check in checks) else 1
