"""`/v1/conversations/{id}/documents`: what a conversation's tasks can search."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asyncpg import Record
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from common.contracts.identifiers import document_id
from common.errors import StoreUnavailable
from gateway import problems
from gateway.documentation import conversation_parameters, document_parameters, problem_responses, upload_body
from gateway.principals import Principals
from gateway.requests import idempotency_key
from gateway.routes.raw import SECURED, Json, RawRoute
from gateway.upload_documents import UploadedDocument, UploadedDocumentList, UploadedDocumentWithContent
from gateway.upload_records import Uploads
from gateway.upload_schemas import (
    MOST_CHARACTERS,
    MOST_CHARACTERS_OF_TENANT,
    MOST_DOCUMENTS,
    read_upload,
)

_REFUSED = {
    "conversation_full": (
        f"A conversation has at most {MOST_DOCUMENTS} documents of {MOST_CHARACTERS} characters together:"
        " delete one that is not needed any more."
    ),
    "tenant_full": (
        f"The documents of a tenant have at most {MOST_CHARACTERS_OF_TENANT} characters together:"
        " delete some, or the conversations that they are of."
    ),
}


def uploading(principals: Principals, uploads: Uploads) -> APIRouter:
    """New documents."""
    router = APIRouter(route_class=RawRoute, tags=["documents"], dependencies=[SECURED])

    @router.post(
        "/v1/conversations/{conversation_id}/documents",
        status_code=201,
        summary="Give a conversation a document",
        openapi_extra=upload_body(),
        responses={
            201: {"model": UploadedDocument},
            200: {"model": UploadedDocument, "description": "The same document as before"},
            **problem_responses(
                "not-found", "idempotency-conflict", "too-large", "unsupported-media-type", "invalid-request"
            ),
        },
    )
    async def upload(request: Request) -> Response:
        """Agents that have the tool `search_documents` find what it says, from the next search on. The id may be of a
        conversation that no task has named yet. Documents are deleted with their conversation."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        tenant, conversation = principal.tenant_id, _uuid(request.path_params["conversation_id"], "conversation")
        made = document_id(tenant, conversation, idempotency_key(request))
        try:
            verdict = await uploads.add(tenant, conversation, made, await read_upload(request))
            if verdict == "other":
                raise problems.CONFLICT.problem("This Idempotency-Key was used with another document.")
            if verdict in _REFUSED:
                raise problems.INVALID.problem(_REFUSED[verdict])
            row = await uploads.find(tenant, conversation, made)
        except StoreUnavailable as error:
            raise problems.unavailable(
                "The document may have been added: read the list before you ask again."
            ) from error
        if row is None:  # deleted since
            raise _no_such("document")
        response = Json(_view(row), 201 if verdict == "added" else 200)
        response.headers["Location"] = _address(row)
        return response

    return router


def reading_uploads(principals: Principals, uploads: Uploads) -> APIRouter:
    """Documents that are there."""
    router = APIRouter(route_class=RawRoute, tags=["documents"], dependencies=[SECURED])

    @router.get(
        "/v1/conversations/{conversation_id}/documents",
        summary="List the documents of a conversation, oldest first",
        openapi_extra=conversation_parameters(),
        responses={200: {"model": UploadedDocumentList}, **problem_responses("not-found")},
    )
    async def listed(request: Request) -> Response:
        """An id that no document was given to has none, whether it is a conversation's or not."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        conversation = _uuid(request.path_params["conversation_id"], "conversation")
        return Json({"items": [_view(row) for row in await uploads.all(principal.tenant_id, conversation)]})

    @router.get(
        "/v1/conversations/{conversation_id}/documents/{document_id}",
        summary="Read a document",
        openapi_extra=document_parameters(),
        responses={200: {"model": UploadedDocumentWithContent}, **problem_responses("not-found")},
    )
    async def read(request: Request) -> Response:
        """With its content, as it was uploaded."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        row = await uploads.find(principal.tenant_id, *_named(request))
        if row is None:
            raise _no_such("document")
        return Json(_view(row) | {"content": row["content"]})

    @router.delete(
        "/v1/conversations/{conversation_id}/documents/{document_id}",
        status_code=204,
        summary="Delete a document",
        openapi_extra=document_parameters(),
        responses=problem_responses("not-found"),
    )
    async def delete(request: Request) -> Response:
        """No search finds it any more. What tasks have quoted of it stays in what was said."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        try:
            found = await uploads.delete(principal.tenant_id, *_named(request))
        except StoreUnavailable as error:
            raise problems.unavailable("The document may have been deleted: ask again.") from error
        if not found:
            raise _no_such("document")
        return Response(status_code=204)

    return router


def _named(request: Request) -> tuple[UUID, UUID]:
    names = request.path_params
    return _uuid(names["conversation_id"], "document"), _uuid(names["document_id"], "document")


def _uuid(text: str, what: str) -> UUID:
    """The id in an address. What is no id names nothing. Raises `Problem`."""
    try:
        return UUID(text)
    except ValueError as error:
        raise _no_such(what) from error


def _no_such(what: str) -> problems.Problem:
    """Another tenant's reads the same as none."""
    return problems.NOT_FOUND.problem(f"There is no such {what}.")


def _address(row: Record) -> str:
    return f"/v1/conversations/{row['conversation_id']}/documents/{row['document_id']}"


def _view(row: Record) -> dict[str, Any]:
    names = ("conversation_id", "name", "language", "characters", "passages", "created_at")
    return {"id": row["document_id"], **{name: row[name] for name in names}, "links": {"self": _address(row)}}
