"""Structs: frozen, keyword-only data that is read from recipes and bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

if TYPE_CHECKING:
    # msgspec does not tell type checkers that `frozen` and `kw_only` are inherited: show them a plain frozen dataclass.
    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
    class Struct:
        """Base of every specification: immutable, keyword-only, strict about unknown keys."""

        def __init_subclass__(cls, *, tag: str | None = None) -> None: ...

        __struct_fields__: ClassVar[tuple[str, ...]]
else:

    class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Base of every specification: immutable, keyword-only, strict about unknown keys."""


_StructT = TypeVar("_StructT", bound=Struct)


def replace(struct: _StructT, **changes: Any) -> _StructT:
    """Return a copy of `struct` with some fields changed. As in `msgspec.structs.replace`, nothing is validated."""
    return cast("_StructT", msgspec.structs.replace(cast("Any", struct), **changes))
