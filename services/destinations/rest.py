"""Delivery to a partner's REST API: one POST a file, under a key that makes a repetition recognisable."""

import json
from types import TracebackType
from typing import Self

import httpx
from loguru import logger

from models.connector import Json, RestDestination
from models.errors import RetryLater, StopConnector
from services.destinations.sender import Doubtful, DoubtfulStop, OutgoingFile, TurnedDown
from services.text import hidden, one_line
from services.transport import http
from settings import Settings

ANSWER_BYTES = 64 * 2**20
KEPT_CHARACTERS = 10_000
"""So much of an answer is kept with the file."""


class RestSender:
    """One client for one partner, for as long as it is open."""

    def __init__(self, destination: RestDestination, settings: Settings) -> None:
        self._destination = destination
        self._address = settings.text(destination.address)
        self._token = settings.secret(destination.token) if destination.token else None
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        self._client = http.client(self._address, self._token, self._destination.timeout_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, file: OutgoingFile) -> Json:
        try:
            document = json.loads(file.content)
        except ValueError:
            raise TurnedDown(f"{file.name} holds no JSON") from None
        try:
            found = await self._look_up(document) if file.doubtful else None
            return {"found": found} if found is not None else await self._post(file, document)
        except http.Uncertain as error:
            raise Doubtful(error.reason, hint=error.hint) from error

    async def _post(self, file: OutgoingFile, document: Json) -> Json:
        request = self._client.build_request(
            "POST",
            self._destination.path.lstrip("/"),
            content=file.content,
            headers={"Content-Type": "application/json", "Idempotency-Key": self._key(file, document)},
        )
        try:
            answer = await http.send(self._client, request, ANSWER_BYTES)
        except StopConnector as error:
            raise DoubtfulStop(error.reason, hint=error.hint) from error
        if answer.is_good:
            return {"status": answer.status, "body": _body(answer)}
        if answer.status in self._destination.delivered_on:
            return {"status": answer.status, "body": _body(answer), "found": await self._what_it_has(document)}
        if answer.status in http.BAD_CREDENTIALS:
            raise http.refused_credentials(answer, (self._destination.token or self._destination.address).name)
        if answer.status in self._destination.retry_on or (answer.is_passing and answer.status not in http.NOT_NOW):
            # It may have got as far as storing it.
            fault = http.passing_fault(answer)
            raise Doubtful(fault.reason, after_seconds=fault.after_seconds)
        if answer.is_passing:
            raise http.passing_fault(answer)
        if answer.status < 400:
            where = answer.headers.get("Location", "no place")
            # After a POST, 303 says that it is done.
            raise DoubtfulStop(
                f"{request.url} answers {answer.status}, to look at {one_line(where)}",
                hint=f"correct {self._destination.address.name} and start the daemon anew",
            )
        raise TurnedDown(
            f"{answer.status} {answer.excerpt}",
            hint="mend the row, and a new file goes out; or the partner's side, then `retry --dead-letter`",
        )

    async def _what_it_has(self, document: Json) -> Json | None:
        """For the ledger only: that it cannot be had changes nothing about the delivery."""
        try:
            return await self._look_up(document)
        except (RetryLater, StopConnector) as error:
            logger.debug("{} has it; what it has cannot be looked up: {}", self._destination.name, error)
            return None

    async def _look_up(self, document: Json) -> Json | None:
        """The partner's object for this document, None where it has none or cannot be asked.

        Raises Doubtful when it cannot tell about this one.
        """
        asked = self._destination.look_up
        if asked is None:
            return None
        answer = await http.get(self._client, asked.path, asked.query(document), ANSWER_BYTES)
        if answer.status in http.BAD_CREDENTIALS:
            raise http.refused_credentials(answer, (self._destination.token or self._destination.address).name)
        if answer.status == 404:
            return None
        if answer.status in http.NOT_NOW:
            raise http.passing_fault(answer)
        if not answer.is_good:
            raise Doubtful(http.passing_fault(answer).reason)
        try:
            return asked.find(document, answer.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise Doubtful(f"{answer.url} answers with something else than was agreed: {what}") from error

    def _key(self, file: OutgoingFile, document: Json) -> str:
        """A quoted string, as draft-ietf-httpapi-idempotency-key-header, section 2.1, wants it.

        The ledger's number of a file is unique in one database; its digest makes it so everywhere.
        """
        if self._destination.idempotency_key is not None:
            key = self._destination.idempotency_key(document)
        else:
            key = f"{file.id}-{file.sha256.hex()[:32]}"
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'


def _body(answer: http.Answer) -> Json:
    text = answer.body.decode("utf-8", "replace")
    try:
        return answer.json() if len(text) <= KEPT_CHARACTERS else hidden(text)[:KEPT_CHARACTERS]
    except ValueError:
        return text
