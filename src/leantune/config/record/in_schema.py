"""Types of the values in ``record.json``, with annotations for its published schema."""

from __future__ import annotations

from typing import Annotated, Any


class InSchema:
    """Additional keywords of a value in the published schema; readers only check the type."""

    def __init__(self, description: str | None = None, **keywords: Any) -> None:
        self.keywords = {"description": description} if description else {}
        self.keywords |= keywords

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Return the schema of the type with the additional keywords; called by pydantic."""
        return {**handler(core_schema), **self.keywords}


Count = Annotated[int, InSchema(minimum=0)]
Positive = Annotated[int, InSchema(minimum=1)]
Amount = Annotated[float, InSchema(minimum=0)]
Rate = Annotated[float, InSchema(minimum=0, maximum=1)]
Interval95 = Annotated[tuple[Rate, Rate], InSchema("95 % interval.")]
