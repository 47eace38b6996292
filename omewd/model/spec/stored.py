"""A stream's specification out of what omewd itself has written: a journal, a dataset, a job.

What users give is read strictly, so that a misspelt field is an error. What is stored may be of a newer omewd: fields
that this one does not know are left out. A known field with a value that it does not know is still an error.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

from omewd.model.spec.checked import Checked
from omewd.model.spec.spec import StreamSpec


def stored_spec(fields: Any) -> StreamSpec:
    """Build a spec from fields that were stored; raises OmewdError ``bad_spec``."""
    known = _known({StreamSpec}, fields)
    if isinstance(fields, dict) and "dims" in fields:  # another spelling of a field, as a client has given it
        known["dims"] = fields["dims"]
    return StreamSpec.parse(known)


def _known(kinds: Iterable[type[Checked]], value: Any) -> Any:
    """A value that should be one of ``kinds``, or have them inside, without the fields that none of them has."""
    if isinstance(value, list | tuple):
        return [_known(kinds, item) for item in value]
    if not isinstance(value, dict) or not kinds:
        return value
    known: dict[str, Any] = {}
    for name, item in value.items():
        fields = [kind.model_fields[name] for kind in kinds if name in kind.model_fields]
        if fields:
            known[name] = _known({kind for field in fields for kind in _models_in(field.annotation)}, item)
    return known


def _models_in(annotation: Any) -> set[type[Checked]]:
    if isinstance(annotation, type) and issubclass(annotation, Checked):
        return {annotation}
    return {kind for inner in typing.get_args(annotation) for kind in _models_in(inner)}
