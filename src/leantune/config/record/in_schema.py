"""Types of the values in ``record.json``, with what its published schema says of them."""

from __future__ import annotations

from typing import Annotated, Any


class InSchema:
    """What the published schema says of a value beyond its type, which is all that a reader insists on."""

    def __init__(self, description: str | None = None, **keywords: Any) -> None:
        self.keywords = {"description": description} if description else {}
        self.keywords |= keywords

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Pydantic's hook: the schema of the type, with more keywords."""
        return {**handler(core_schema), **self.keywords}


Count = Annotated[int, InSchema(minimum=0)]
Positive = Annotated[int, InSchema(minimum=1)]
Amount = Annotated[float, InSchema(minimum=0)]
Rate = Annotated[float, InSchema(minimum=0, maximum=1)]
Interval95 = Annotated[tuple[Rate, Rate], InSchema("At 95 %.")]
