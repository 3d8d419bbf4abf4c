"""A collection as people ask it: terms or criteria in, documents with their types or a table out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from maggma.core import Store

from mfal.frames import Document
from stores.where import Criteria, annotation, criteria

if TYPE_CHECKING:
    from pandas import DataFrame

#: What is worth reading of a document: no lists of atoms, no weights, no structures.
COLUMNS = {
    "frames": "round frame_id parent source",
    "labels": "round frame_id fidelity status attempt energy core_hours reason",
    "scores": "round frame_id decision sigma_nonmagnetic sigma_delta sigma_magnetic gain",
    "models": "round member seed device seconds trained_on.nonmagnetic trained_on.magnetic data_fingerprint",
    "rounds": "round candidates trained_on.magnetic core_hours.nonmagnetic core_hours.magnetic"
    " errors.hold_out.magnetic.forces next_step",
}

D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Collection(Generic[D]):
    """Documents of one kind: of the campaign whose file was opened, else of all in the store.

    A question is a text of terms as of `mfal query --where`, such as `fidelity=magnetic core_hours>0.1`, all of which
    must hold; or MongoDB's criteria, as text or as a dictionary. An order is a field, with a minus for downwards.
    """

    name: str
    model: type[D]
    #: The maggma store below, for what is not offered here; of all campaigns.
    store: Store
    #: What is asked for in any case.
    scope: Callable[[], Criteria] = dict

    def query(self, where: str | Criteria = "", *, sort: str = "", limit: int = 0) -> list[D]:
        """The documents that match.

        Raises:
            ValueError: the question cannot be read, or names what is no field.
        """
        found = self.store.query(self.criteria(where), sort=self._order(sort), limit=limit)
        return [self.typed(document) for document in found]

    def table(
        self, where: str | Criteria = "", columns: Sequence[str] | None = None, *, sort: str = "", limit: int = 0
    ) -> DataFrame:
        """The documents that match, a row each.

        Args:
            columns: fields, dotted where they are nested; by default those worth reading.

        Raises:
            ValueError: as `query`.
        """
        from pandas import DataFrame

        columns = list(columns or COLUMNS[self.name].split())
        return DataFrame(self.rows(where, columns, sort=sort, limit=limit), columns=columns)

    def rows(self, where: str | Criteria, columns: Sequence[str], *, sort: str = "", limit: int = 0) -> list[list[Any]]:
        """What is in the columns of the documents that match; None where there is nothing."""
        for column in columns:
            annotation(self.name, column, f"column {column}")
        # whole fields: a projection finds nothing by a position in a list
        fields = list(dict.fromkeys(column.split(".")[0] for column in columns))
        found = self.store.query(self.criteria(where), properties=fields, sort=self._order(sort), limit=limit)
        return [[pick(document, column.split(".")) for column in columns] for document in found]

    def count(self, where: str | Criteria = "") -> int:
        return self.store.count(self.criteria(where))

    def criteria(self, where: str | Criteria) -> Criteria:
        """As the store takes them."""
        asked, scope = criteria(where, self.name) if isinstance(where, str) else where, self.scope()
        # side by side where that can be, as stores have indexes for it
        return {"$and": [scope, asked]} if scope.keys() & asked.keys() else scope | asked

    def typed(self, stored: dict[str, Any]) -> D:
        """The document as its model knows it, without what the store and the builder add, and what is a blob."""
        known = {key: stored[key] for key in self.model.model_fields if key in stored}
        return self.model.model_validate({key: value for key, value in known.items() if not _is_blob(value)})

    def _order(self, sort: str) -> dict[str, int] | None:
        field = sort.removeprefix("-")
        if field:
            annotation(self.name, field, f"sort by {field}")
        return {field: -1 if sort.startswith("-") else 1} if field else None


def _is_blob(value: Any) -> bool:
    return isinstance(value, dict) and "blob_uuid" in value


def pick(value: Any, path: Sequence[str]) -> Any:
    """What is at a dotted path, through lists as MongoDB goes; None where there is nothing."""
    for i, part in enumerate(path):
        if isinstance(value, list):
            if not part.isdecimal():
                return [pick(item, path[i:]) for item in value]
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value
