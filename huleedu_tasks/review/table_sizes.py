"""The sizes of the tables of staging or production, from a file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huleedu_tasks.config.registry import Registry
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.postgres.inspection import Relation

# Beside the registry.
DEFAULT_FILE = "table-sizes.json"
FLAG = "--sizes"

# The relations of each service, by `schema.name`.
TableSizes = Mapping[str, Mapping[str, Relation]]


def read_table_sizes(stated: str, registry: Registry, directory: Path) -> TableSizes:
    """Read the sizes of tables, by the names of their services.

    Args:
        stated: The file that the user stated; an empty string for the default one, if it exists.
        directory: The directory that a stated file is relative to.

    Returns:
        The tables of each service in the file; empty without a file.

    Raises:
        ConfigurationError: If the file cannot be read, or has no sizes in the expected form.
    """
    path = directory / Path(stated).expanduser() if stated else registry.root / DEFAULT_FILE
    if not stated and not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        return dict(_services(document))
    except OSError as error:
        reason = error.strerror or str(error)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise ConfigurationError(
        f"The sizes of tables in {path} could not be read: {reason}.",
        code="sizes-unreadable",
        hint="Write them with `invoke prod.plan --out FILE`, or by hand: "
        '{"services": [{"service": "orders", "tables": {"public.note": {"rows": 9, "bytes": 8192}}}'
        "]}",
    )


def _services(document: Any) -> Iterator[tuple[str, dict[str, Relation]]]:
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, list):
        raise ValueError("it is not an object with a list `services`")
    for number, entry in enumerate(services):
        place = f"services[{number}]"
        name = entry.get("service") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise ValueError(f"{place} is not an object with a string `service`")
        # An entry of a plan without sizes.
        tables = entry.get("tables", {})
        if not isinstance(tables, dict):
            raise ValueError(f"{place}.tables is not an object")
        yield name, {table: _relation(place, table, size) for table, size in tables.items()}


def _relation(place: str, table: str, size: Any) -> Relation:
    rows = size.get("rows") if isinstance(size, dict) else None
    stored = size.get("bytes") if isinstance(size, dict) else None
    if not _is_count(stored) or not (rows is None or _is_count(rows)):
        raise ValueError(
            f"{place}.tables[{json.dumps(table)}] must be an object with `bytes` and `rows`, which "
            "are numbers of at least 0; `rows` may be null"
        )
    return Relation(name=table.rpartition(".")[2], rows=rows, size=stored)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
