"""`doctor`: what is missing on this machine."""

from __future__ import annotations

from orchestrator.cli.options import JsonOption, out, print_json


def doctor(as_json: JsonOption = False) -> int:
    """Check this machine; each line says what was found, and the command that mends it."""
    from dataclasses import asdict

    from rich.table import Table

    from orchestrator.cli.machine_checks import examine

    checks = examine()
    if as_json:
        print_json([asdict(check) | {"ok": check.is_ok} for check in checks])
    else:
        table = Table.grid(padding=(0, 2))
        for check in checks:
            mark = "[green]ok[/]" if check.is_ok else "[red]--[/]"
            table.add_row(mark, check.name, check.found, f"→ {check.fix}" if check.fix else "")
        out.print(table)
    return 0 if all(check.is_ok for check in checks) else 1
