"""POST /check-form: whether the form of an answer can be held to, without an answer."""

from __future__ import annotations

import re
import time

from fastapi import APIRouter, Request

from ...errors import ConstraintError
from ..http.bodies import JsonRoute
from ..http.errors import ApiError
from .answer_form import FORMS, FormFields
from .answers import Json
from .service import service_of

router = APIRouter(route_class=JsonRoute)

# How messages about schemas name a place: "json_schema, at /properties/a/not: the keyword …"
PLACE = re.compile(r", at (/[^:\s]*):")
KEYWORD = re.compile(r"the keyword '([^']+)'")


@router.post("/check-form")
async def check_form(request: Request, fields: FormFields) -> Json:
    """Compile a form of answers, as completions would, and say how long it took.

    Where it cannot be had, `is_valid` is false and `message` says why; `pointer` is the place in a
    schema (RFC 6901) and `keyword` what is not supported, where they are known.
    """
    form = fields.form()
    if not form:
        names = ", ".join(("response_format", *FORMS[2:]))
        raise ApiError(400, f"there is no form to check, expected one of {names}")
    began = time.perf_counter()
    try:
        await service_of(request).checked_params(form, 0)
    except ConstraintError as error:
        message = str(error)
        place, keyword = PLACE.search(message), KEYWORD.search(message)
        return {
            "is_valid": False,
            "milliseconds": None,
            "message": message,
            "pointer": place[1] if place else None,
            "keyword": keyword[1] if keyword else None,
        }
    seconds = time.perf_counter() - began
    return {
        "is_valid": True,
        "milliseconds": round(1e3 * seconds, 3),
        "message": None,
        "pointer": None,
        "keyword": None,
    }
