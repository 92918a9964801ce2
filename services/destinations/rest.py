"""Delivery to a partner's REST API: a POST for each file, under a key that makes a repetition recognisable.

What the partner has already is compared, and changed where it says something else.
"""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from models.connector import Json, JsonObject, RestDestination
from models.errors import StopConnector
from services.destinations.sender import Doubtful, DoubtfulStop, OutgoingFile, TurnedDown
from services.text import hidden, one_line
from services.transport import http
from settings import Settings

ANSWER_BYTES = 64 * 2**20
KEPT_CHARACTERS = 10_000
"""So much of an answer is kept with the file."""

_NOT_AS_AGREED = (ValueError, KeyError, TypeError, AttributeError)
"""What a flow's function raises about an answer in another form."""


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
            return await (self._post(file, document) if found is None else self._brought_up_to(file, document, found))
        except http.Uncertain as error:
            raise Doubtful(error.reason, hint=error.hint) from error

    async def _post(self, file: OutgoingFile, document: Json) -> Json:
        headers = {"Idempotency-Key": self._key(file, document)}
        answer = await self._request("POST", self._destination.path, file.content, headers)
        if answer.status not in self._destination.known_on:
            return self._accepted(answer)
        found = await self._look_up(document)
        if found is None:
            raise _turned_down(f"{answer.status} {answer.excerpt}; and no object for it is found there")
        return await self._brought_up_to(file, document, found)

    async def _brought_up_to(self, file: OutgoingFile, document: Json, found: Json) -> Json:
        """Have the partner's object say what the document says."""
        try:
            asked = self._destination.look_up
            difference = asked.difference(document, found) if asked else None
            change = self._destination.change(document, found) if difference and self._destination.change else None
        except _NOT_AS_AGREED as error:
            raise _otherwise(self._destination.name, error) from error
        if difference is None:
            return {"found": found}
        if change is None:
            raise _turned_down(f"it has another state of it already: {difference}")
        answer = await self._request(change.method, change.path, file.content if change.sends_document else None, {})
        try:
            return {**self._accepted(answer), "changed": found}
        except TurnedDown as error:
            raise _turned_down(f"it has another state of it ({difference}), and keeps that: {error.reason}") from error

    async def _request(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> http.Answer:
        kind = {"Content-Type": "application/json"} if content is not None else {}
        request = self._client.build_request(method, path.lstrip("/"), content=content, headers={**kind, **headers})
        try:
            return await http.send(self._client, request, ANSWER_BYTES)
        except StopConnector as error:
            raise DoubtfulStop(error.reason, hint=error.hint) from error

    def _accepted(self, answer: http.Answer) -> JsonObject:
        """What is kept of an answer that says yes; what any other one means is raised."""
        if answer.is_good:
            return {"status": answer.status, "body": _body(answer)}
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
                f"{answer.url} answers {answer.status}, to look at {one_line(where)}",
                hint=f"correct {self._destination.address.name} and start the daemon anew",
            )
        raise _turned_down(f"{answer.status} {answer.excerpt}")

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
        except _NOT_AS_AGREED as error:
            raise _otherwise(answer.url, error) from error

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


def _turned_down(reason: str) -> TurnedDown:
    hint = "mend the row, and a new file goes out; or the partner's side, then `retry --dead-letter`"
    return TurnedDown(reason, hint=hint)


def _otherwise(who: str, error: Exception) -> Doubtful:
    return Doubtful(f"{who} answers with something else than was agreed: {type(error).__name__}: {error}")


def _body(answer: http.Answer) -> Json:
    text = answer.body.decode("utf-8", "replace")
    try:
        return answer.json() if len(text) <= KEPT_CHARACTERS else hidden(text)[:KEPT_CHARACTERS]
    except ValueError:
        return text
