"""The one door for what users say of a stream: whatever is wrong with it is an OmewdError that says what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Self, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omewd.errors import OmewdError
from omewd.model.plain import numbers_in

_COMPLAINT_LENGTH = 2000

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _Door(ModelMetaclass):
    """Constructors raise OmewdError. Not an ``__init__``: pydantic would call it for models inside of models, too."""

    if not TYPE_CHECKING:  # else a type checker takes this for the signature of every constructor

        def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805
            try:
                return super().__call__(*args, **{name: numbers_in(value) for name, value in fields.items()})
            except ValidationError as error:
                raise refusal(error, cls) from error


class Checked(BaseModel, metaclass=_Door):
    """A frozen model. Its constructor and :meth:`parse` raise OmewdError ``bad_spec``, all complaints in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, fields: Any) -> Self:
        """One out of fields that nobody vouches for."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise refusal(error, cls) from error

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            what = type(self).__name__
            raise OmewdError(
                "bad_spec", f"a {what} does not change: {name!r} is set when it is made", f"Make another {what}"
            ) from error


def refusal(error: ValidationError, model: Any) -> OmewdError:
    """What pydantic complains of, as an error that names the fields and what to do."""
    found = error.errors(include_url=False, include_context=False)
    complaints = []
    for item in found:
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        nested = isinstance(item["input"], dict | list | tuple | BaseModel)
        given = "" if nested or not where else f" (given: {item['input']!r:.80})"
        complaints.append(f"{where}: {text}{given}" if where else text)
    text = "; ".join(complaints)
    if len(text) > _COMPLAINT_LENGTH:
        text = f"{text[:_COMPLAINT_LENGTH]} … ({len(complaints)} complaints)"
    return OmewdError(
        "bad_spec", text, _remedy([item["loc"] for item in found if item["type"] == "extra_forbidden"], model)
    )


def _remedy(unknown: list[tuple[int | str, ...]], model: Any) -> str:
    fields = list(model.model_fields)
    names = [str(loc[0]) for loc in unknown if len(loc) == 1]
    if names:
        close = difflib.get_close_matches(names[0], fields, 1)
        return f"Did you mean `{close[0]}`?" if close else f"A {model.__name__} has the fields {', '.join(fields)}"
    return f"Correct what is named; help(omewd.{model.__name__}) says what each field takes"
