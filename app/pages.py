"""Lists in pages, as Zun cuts them (zun-api, sections 5.3 and 5.4)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import and_, literal, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.errors import Invalid, NotFound


class Page:
    """One request for a part of a list: `query` is the query string, `most` the most rows. Raises Invalid.

    `mark` is the column by which the last row of the page before is named.
    """

    def __init__(
        self,
        query: Mapping[str, str],
        base_url: str,
        most: int,
        model: Any,
        columns: Mapping[str, Any],
        filters: Collection[str],
        key: str = "id",
        mark: str = "uuid",
    ) -> None:
        unknown = set(query) - {"limit", "marker", "sort_key", "sort_dir", "all_projects", "resource_url", "expand"}
        if unknown := unknown - set(filters):
            raise Invalid(f"Unknown parameters: {', '.join(sorted(unknown))}")
        self.model = model
        self.limit = min(_limit(query.get("limit")), most) if query.get("limit") else most
        self.marker = query.get("marker") or None
        self.mark = mark
        if self.marker is not None and mark == "id" and not (self.marker.isascii() and self.marker.isdigit()):
            raise Invalid(f"Expected a number as marker but received {self.marker[:64]}.")
        self.key = query.get("sort_key") or key
        if self.key not in columns:
            raise Invalid(
                f'The sort_key value "{self.key[:64]}" is an invalid field for sorting', code="invalid-parameter-value"
            )
        self.column = columns[self.key]
        direction = query.get("sort_dir") or "asc"
        if direction not in ("asc", "desc"):
            raise Invalid(f"Invalid sort direction: {direction[:64]}. Acceptable values are 'asc' or 'desc'")
        self.descending = direction == "desc"
        self._query = query
        self._base = base_url

    async def rows(self, session: AsyncSession, where: Sequence[Any], missing: str) -> list[Any]:
        """The page's rows. Raises NotFound (code `missing`) when the marker is not visible."""
        query = select(self.model).where(*where).limit(self.limit)
        id_column = col(self.model.id)
        if self.marker is not None:
            query = query.where(await self._after(session, missing))
        order = [id_column.desc() if self.descending else id_column.asc()]
        if self.key != "id":
            # Databases disagree on where null belongs, so it is said: before everything, and last when descending.
            order.insert(0, self.column.desc().nulls_last() if self.descending else self.column.asc().nulls_first())
        query = query.order_by(*order)
        return list((await session.exec(query)).all())

    def next(self, collection: str, rows: Sequence[Any]) -> str | None:
        """The link to the next page, with the same filters; None when this one is not full."""
        if len(rows) < self.limit:
            return None
        kept = {k: v for k, v in self._query.items() if k not in ("limit", "marker", "sort_key", "sort_dir")}
        paging = {"sort_key": self.key, "sort_dir": "desc" if self.descending else "asc", "limit": self.limit}
        return f"{self._base}/{collection}?{urlencode(paging | kept | {'marker': getattr(rows[-1], self.mark)})}"

    async def _after(self, session: AsyncSession, missing: str) -> Any:
        mark = min(int((self.marker or "")[:19]), 2**62) if self.mark == "id" else self.marker
        row = (await session.exec(select(self.model).where(getattr(self.model, self.mark) == mark))).one_or_none()
        if row is None:
            kind = missing.partition("-")[0].capitalize()
            raise NotFound(f"{kind} {(self.marker or '')[:64]} could not be found.", code=missing)
        value, id_column = getattr(row, self.key), col(self.model.id)
        beyond_id = id_column < row.id if self.descending else id_column > row.id
        if self.key == "id":
            return beyond_id
        if value is None:
            same = and_(self.column.is_(None), beyond_id)
            return same if self.descending else or_(same, self.column.is_not(None))
        bound = literal(value)  # or true and false could not be compared with < and >
        beyond = or_(self.column < bound, self.column.is_(None)) if self.descending else self.column > bound
        return or_(beyond, and_(self.column == bound, beyond_id))


def _limit(value: str | None) -> int:
    if value is None or not value.isascii() or not value.isdigit() or int(value[:18]) < 1:
        raise Invalid("Limit must be positive integer")
    return int(value[:18])
