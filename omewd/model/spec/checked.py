"""The base of all models that users fill in. Invalid input raises an OmewdError with a remedy."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Self, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omewd.errors import OmewdError
from omewd.model.jsonable import without_numpy

_COMPLAINT_LENGTH = 2000
_IN_OUR_WORDS = {"extra_forbidden": "there is no such field", "missing": "it is missing"}

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _RaisesOmewdError(ModelMetaclass):
    """Makes constructors raise OmewdError. An ``__init__`` would not do: pydantic calls it for nested models, too."""

    if not TYPE_CHECKING:  # type checkers would take this as the signature of every constructor

        def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805
            try:
                return super().__call__(*args, **{name: without_numpy(value) for name, value in fields.items()})
            except ValidationError as error:
                raise bad_spec(error, cls) from error


class Checked(BaseModel, metaclass=_RaisesOmewdError):
    """A frozen model. Its constructor and :meth:`parse` raise OmewdError ``bad_spec``: all problems in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, fields: Any) -> Self:
        """Build one from untrusted fields."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise bad_spec(error, cls) from error

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            what = type(self).__name__
            raise OmewdError(
                "bad_spec", f"a {what} can't be changed: {name!r} is set when it is made", f"Make a new {what}"
            ) from error


def bad_spec(error: ValidationError, model: Any) -> OmewdError:
    """Turn pydantic's complaints into an error that names the fields and says what to do."""
    found = error.errors(include_url=False, include_context=False)
    complaints = []
    for item in found:
        where = ".".join(str(part) for part in item["loc"])
        text = _IN_OUR_WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        text = text.replace("Input should be", "it must be")
        nested = isinstance(item["input"], dict | list | tuple | BaseModel)
        told = nested or not where or item["type"] in _IN_OUR_WORDS or repr(item["input"]) in text
        told |= item["loc"][-1:] == ("copy_to",)  # there may be a secret in it
        given = "" if told else f" (got {item['input']!r:.80})"
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
    return f"Correct these fields; `help(omewd.{model.__name__})` says what each one takes"
