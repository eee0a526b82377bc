"""Placement table for people: a line for each role."""

from collections.abc import Sequence

from megatron_rl.placement.roles import Role

_HEADINGS = ("role", "nodes", "tasks", "GPUs/node", "CPUs/task")


def placement_table(roles: Sequence[Role]) -> str:
    """Return the roles as aligned plain text."""
    rows = [
        _HEADINGS,
        *(
            (
                role.name,
                ",".join(role.nodes),
                str(role.tasks),
                str(role.gpus_per_node),
                str(role.cpus_per_task) if role.cpus_per_task else "its share",
            )
            for role in roles
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
