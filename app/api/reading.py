"""Requests, read: bodies of bounded size and depth, as closed models; all faults are listed at once."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.api.problems import faulty
from core.errors import ServiceError, invalid
from core.strict_json import read_object

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_IDEMPOTENCY_KEY = 255

AnyModel = TypeVar("AnyModel", bound=BaseModel)


async def body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """
    The whole body. limit: in bytes; judged while reading, whatever Content-Length says.

    Raises ServiceError: unsupported_media_type for anything but JSON, payload_too_large.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ServiceError("unsupported_media_type")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> ServiceError:
    return ServiceError("payload_too_large", f"The request body is larger than {limit // 1024} KiB.")


async def read(request: Request, model: type[AnyModel]) -> AnyModel:
    """
    The body as a model.

    Raises ServiceError: what body() raises; bad_request when it is no JSON object, has a member twice
    or is nested too deeply; invalid with every fault that the model found.
    """
    return parse(await body(request), model)


async def read_hashed(request: Request, model: type[AnyModel]) -> tuple[AnyModel, bytes]:
    """The body as read() gives it, and the SHA-256 by which a repetition of this request is known."""
    text = await body(request)
    return parse(text, model), sha256(request.scope["path"].encode() + b"\0" + text).digest()


def parse(text: bytes, model: type[AnyModel]) -> AnyModel:
    """JSON text as a model. Raises what read() raises."""
    check_form(text)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise faulty(error) from None


def check_form(text: bytes) -> None:
    """
    Whether it is a JSON object that every reader understands alike and the store can hold.

    Raises ServiceError: bad_request for the form, invalid for a NUL character, which PostgreSQL's text has not.
    """
    try:
        members = read_object(text)
    except ValueError as error:  # of a few fixed sentences of ours, or the reader's, which quotes nothing
        raise ServiceError("bad_request", f"The body is no proper JSON object: {_told(error)}.") from None
    _walk(members, "", 1)


def _told(error: ValueError) -> str:
    text = "not UTF-8" if isinstance(error, UnicodeError) else str(error)
    return text.rstrip(".")


def _walk(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ServiceError("bad_request", f"The body is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, dict):
        for name, member in value.items():
            place = f"{path}.{name[:64]}" if path else name[:64]
            _check_text(name, "")
            _walk(member, place, depth + 1)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _walk(member, f"{path}.{index}", depth + 1)


def _check_text(text: str, path: str) -> None:
    if text.isascii():
        if "\0" not in text:
            return
    else:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ServiceError("bad_request", "The body holds half a surrogate pair.") from None
        if "\0" not in text:
            return
    raise invalid(path, "must not contain the character NUL")


def query(request: Request, model: type[AnyModel]) -> AnyModel:
    """
    The query string as a model. A name that stands several times is a list where the model has one.

    Raises ServiceError (invalid) with every fault.
    """
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if "\0" in value:
            raise ServiceError("bad_request", "The query string holds the character NUL.")
        if name in given:
            given[name] = [*given[name], value] if isinstance(given[name], list) else [given[name], value]
        else:
            given[name] = [value] if name in _lists(model) else value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise faulty(error) from None


def _lists(model: type[BaseModel]) -> frozenset[str]:
    """The parameters that may stand several times."""
    return frozenset(name for name, field in model.model_fields.items() if _is_list(field.annotation))


def _is_list(annotation: Any) -> bool:
    """Whether it is a list, or may be one."""
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))


def idempotency_key(request: Request) -> str | None:
    """The header Idempotency-Key. Raises ServiceError (invalid) when it is no key of 1-255 visible characters."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable() and " " not in key):
        raise ServiceError("invalid", "Idempotency-Key must be 1-255 visible ASCII characters.")
    return key
