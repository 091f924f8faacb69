"""People as the other channels know them: who they are, where they are reached, and whether they answer there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import AddressChannel, Answer, Body, Parameters, StoredChannel, Whole
from app.api.operation import Call, Operation, answer, nothing
from app.api.problems import refused
from app.api.reading import query, read
from core.errors import Fault, invalid, not_found
from core.identity import is_user_id
from core.keys import decode_base64url, encode_base64url
from core.locale import is_language_tag, is_timezone
from delivery.addresses import normalise
from delivery.audit_store import actor_of
from delivery.channel import MAX_ADDRESS
from delivery.recipients_store import Introduction, Recipient, RecipientAddress

MAX_PREFERENCES_BYTES = 16 * 1024

_MANAGING = "notifications:write"


def _name(value: str) -> str:
    if not value.isprintable() or not value.strip() or "=?" in value:  # it stands in headers of mails
        raise ValueError("must be printable characters on one line, without =?")
    return value


def _locale(value: str) -> str:
    if not is_language_tag(value):
        raise ValueError("must be a language tag, as in de or pt-BR (BCP 47)")
    return value


def _timezone(value: str) -> str:
    if not is_timezone(value):
        raise ValueError("must be a time zone, as in Europe/Vienna (IANA)")
    return value


PersonName = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_name)]
Locale = Annotated[str, StringConstraints(min_length=2, max_length=63), AfterValidator(_locale)]
TimeZone = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_timezone)]
AddressText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ADDRESS)]


class NamedAddress(Body):
    """Where a channel reaches somebody."""

    channel: AddressChannel
    value: AddressText = Field(
        description="An e-mail address; a phone number, with + or in the tenant's region; a Telegram chat id or "
        "@channel; an https URL."
    )


class NewAddress(NamedAddress):
    """An address of one person."""

    primary: bool = Field(
        default=False, description="In place of the channel's primary. The first one always is."
    )


class PersonBody(Body):
    """What is known of a person. What is not named stays; null clears."""

    name: PersonName | None = None
    locale: Locale | None = None
    timezone: TimeZone | None = None
    # A factory keeps the default out of the schema, and null out of the member.
    is_active: bool = Field(
        default_factory=lambda: True,
        description="Nothing is sent to people who are not. For services to say.",
    )
    preferences: Annotated[
        dict[str, JsonValue], Field(max_length=100, description="Your own, at most 16 KiB; kept as given.")
    ] = Field(default_factory=dict)
    addresses: Annotated[
        list[NamedAddress],
        Field(
            max_length=50, description="Added to those that are there, as the primaries of their channels."
        ),
    ] = Field(default_factory=list)


class AddressChange(Body):
    """What is to be different."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    primary: Literal[True] = Field(
        default_factory=lambda: True, description="Another address of the channel takes it over."
    )
    paused: bool = Field(
        default_factory=bool, description="true: nothing is sent there. false: also after a bounce."
    )

    @model_validator(mode="after")
    def _says_something(self) -> AddressChange:
        if not self.model_fields_set:
            raise ValueError("Name at least one member.")
        return self


class Code(Body):
    """What came to the address."""

    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]


class PeopleQuery(Parameters):
    """A page of people, by their names."""

    cursor: Annotated[str, StringConstraints(min_length=1, max_length=1400)] | None = None
    limit: Annotated[Whole, Field(ge=1, le=500)] = 50


class PersonAddress(Answer):
    """An address. Its value is never shown."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    channel: StoredChannel
    hint: str = Field(description="The address, masked.")
    is_primary: bool
    verified_at: datetime | None
    paused_at: datetime | None
    pause_reason: str | None = Field(description="bounced, complained, blocked, gone, paused, …")
    window_until: datetime | None = Field(description="WhatsApp takes free text until then.")
    created_at: datetime


class AddedAddress(PersonAddress):
    """An address that stands now."""

    secret: str | None = Field(
        description="Of a new webhook: what its messages are signed with. Shown this once."
    )


class KnownPerson(Answer):
    """A person and their addresses."""

    user_id: str
    name: str | None
    locale: str | None
    timezone: str | None
    is_active: bool
    preferences: dict[str, Any]
    addresses: list[PersonAddress]
    created_at: datetime
    updated_at: datetime


class KnownPeople(Answer):
    """People, in the order of their names."""

    recipients: list[KnownPerson]
    next_cursor: str | None


class PersonAddresses(Answer):
    """The primary of a channel first."""

    addresses: list[PersonAddress]


class CodeSent(Answer):
    """Until when the code is good."""

    expires_at: datetime


class AddressSecret(Answer):
    """What the messages to a webhook are signed with from now on."""

    secret: str = Field(description="`whsec_…` (Standard Webhooks). Shown this once.")


async def put(call: Call) -> Response:
    """
    Know a person, or change what is known of them. What is not named stays, addresses are added.

    Addresses that a service names count as verified; a person's own have to be confirmed.
    """
    user_id = whose(call)
    wanted = await read(call, PersonBody)
    manages = _manages(call)
    if "is_active" in wanted.model_fields_set and not manages:
        raise InsufficientScope([_MANAGING])
    if len(msgspec.json.encode(wanted.preferences)) > MAX_PREFERENCES_BYTES:
        raise invalid("preferences", f"must be at most {MAX_PREFERENCES_BYTES // 1024} KiB")
    named = [
        Named(f"addresses.{index}.value", (one.channel,), one.value)
        for index, one in enumerate(wanted.addresses)
    ]
    identity = call.identity
    found, is_new = await call.services.delivery.recipients.put(
        identity.tenant_id,
        user_id,
        {name: getattr(wanted, name) for name in wanted.model_fields_set - {"addresses"}},
        actor_of(identity),
        named=list(chain.from_iterable(await _checked(call, named))),
        verified=manages,
    )
    return answer(_person(found), 201 if is_new else 200)


async def find(call: Call) -> Response:
    """A person and their addresses."""
    user_id = whose(call)
    found = await call.services.delivery.recipients.get(call.identity.tenant_id, user_id)
    return answer(_person(found))


async def page(call: Call) -> Response:
    """The people of the tenant who are known to the other channels."""
    wanted = query(call, PeopleQuery)
    after = "" if wanted.cursor is None else _position(wanted.cursor)
    found, end = await call.services.delivery.recipients.list(
        call.identity.tenant_id, after=after, limit=wanted.limit
    )
    cursor = None if end is None else encode_base64url(end.encode())
    return answer(KnownPeople(recipients=[_person(one) for one in found], next_cursor=cursor))


async def delete(call: Call) -> Response:
    """
    Forget a person: who they are, their addresses, what they have written, their digests and browsers.

    What is still on its way to them is dropped. What they want no more of stays known.
    """
    user_id = whose(call)
    identity = call.identity
    await call.services.delivery.recipients.delete(identity.tenant_id, user_id, actor_of(identity))
    await call.services.digests.forget(identity.tenant_id, user_id)
    await call.services.delivery.push.subscriptions.forget(identity.tenant_id, user_id)
    return nothing()


async def add_address(call: Call) -> Response:
    """
    Add an address; one that is there already is answered with 200.

    A service answers for the addresses it adds. A person's own have to be confirmed before anything is sent there.
    """
    user_id = whose(call)
    wanted = await read(call, NewAddress)
    [[(channel, value)]] = await _checked(call, [Named("value", (wanted.channel,), wanted.value)])
    identity = call.identity
    added = await call.services.delivery.recipients.add(
        identity.tenant_id,
        user_id,
        channel,
        value,
        actor_of(identity),
        verified=_manages(call),
        primary=wanted.primary,
    )
    shown = AddedAddress(**_address(added.address).model_dump(), secret=added.secret)
    return answer(shown, 201 if added.is_new else 200)


async def addresses(call: Call) -> Response:
    """Every address of a person, masked."""
    user_id = whose(call)
    found = await call.services.delivery.recipients.get(call.identity.tenant_id, user_id)
    return answer(PersonAddresses(addresses=[_address(one) for one in found.addresses]))


async def change_address(call: Call) -> Response:
    """Make an address the primary of its channel, pause it, or send to it again."""
    user_id = whose(call)
    wanted = await read(call, AddressChange)
    given = wanted.model_fields_set
    identity = call.identity
    changed = await call.services.delivery.recipients.change(
        identity.tenant_id,
        user_id,
        call.id_in_path("address_id"),
        actor_of(identity),
        primary="primary" in given,
        paused=wanted.paused if "paused" in given else None,
    )
    return answer(_address(changed))


async def delete_address(call: Call) -> Response:
    """Take an address away. Of a channel's others, the oldest verified one becomes the primary."""
    user_id = whose(call)
    identity = call.identity
    await call.services.delivery.recipients.remove(
        identity.tenant_id, user_id, call.id_in_path("address_id"), actor_of(identity)
    )
    return nothing()


async def new_secret(call: Call) -> Response:
    """Give a webhook another secret; the one before it is worth nothing from now on."""
    user_id = whose(call)
    identity = call.identity
    secret = await call.services.delivery.recipients.new_secret(
        identity.tenant_id, user_id, call.id_in_path("address_id"), actor_of(identity)
    )
    return answer(AddressSecret(secret=secret))


async def send_code(call: Call) -> Response:
    """Send a code of six digits to an address that is not verified. The one before it is worth nothing."""
    user_id = whose(call)
    expires_at = await call.services.delivery.verifications.send(
        call.identity, user_id, call.id_in_path("address_id")
    )
    call.services.delivery.wake()
    return answer(CodeSent(expires_at=expires_at), 202)


async def confirm(call: Call) -> Response:
    """Say the code that came to an address: then it is verified. A code is good for five tries."""
    user_id = whose(call)
    wanted = await read(call, Code)
    found = await call.services.delivery.verifications.confirm(
        call.identity, user_id, call.id_in_path("address_id"), wanted.code
    )
    return answer(_address(found))


def whose(call: Call) -> str:
    """
    Of whom the path speaks. Raises ServiceError: not_found for what is no name; forbidden where a person names
    somebody else.
    """
    user_id: str = call.path_params["user_id"]
    if not is_user_id(user_id):
        raise not_found("recipient")
    if user_id != call.identity.user_id and not _manages(call):
        raise InsufficientScope([_MANAGING])
    return user_id


class Named(NamedTuple):
    """An address of a request: where it stands, for which channels, and what somebody wrote."""

    path: str
    channels: tuple[str, ...]
    text: str


class InlinePerson(Body):
    """Who somebody is and where they are reached, as it may stand beside their name in a submission."""

    name: PersonName | None = None
    locale: Locale | None = None
    timezone: TimeZone | None = None
    email: AddressText | None = None
    phone: AddressText | None = Field(
        default=None, description="For sms, and for whatsapp unless that is given."
    )
    whatsapp: AddressText | None = None
    telegram: AddressText | None = Field(default=None, description="A chat id, or @channel.")
    webhook: AddressText | None = Field(
        default=None,
        description="POST …/addresses/{address_id}/secret shows what its messages are signed with.",
    )

    def named(self, path: str) -> Iterator[Named]:
        """The addresses among it. path: of the person in the request."""
        by_phone: tuple[str, ...] = ("sms", "whatsapp") if self.whatsapp is None else ("sms",)
        channels: Mapping[str, tuple[str, ...]] = {
            "email": ("email",),
            "phone": by_phone,
            "whatsapp": ("whatsapp",),
            "telegram": ("telegram",),
            "webhook": ("webhook",),
        }
        for member, wanted in channels.items():
            if (text := getattr(self, member)) is not None:
                yield Named(f"{path}.{member}", wanted, text)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said but, at most, the name of the person."""
        return all(getattr(self, member) is None for member in InlinePerson.model_fields)


async def introduce(call: Call, people: Sequence[tuple[str, str, InlinePerson]]) -> None:
    """
    Know the recipients of a submission with what stands beside their names. people: path, user id, what is said.

    Raises ServiceError (invalid) with every address that is none, and for somebody of whom two things are said;
    then nobody is stored.
    """
    names = Counter(user_id for _, user_id, _ in people)
    if twice := [
        Fault(f"{path}.user_id", "must be named once") for path, name, _ in people if names[name] > 1
    ]:
        raise refused(twice)
    checked = iter(await _checked(call, [named for path, _, said in people for named in said.named(path)]))
    introductions = [
        Introduction(
            user_id=user_id,
            name=said.name,
            locale=said.locale,
            timezone=said.timezone,
            addresses=[address for _ in said.named(path) for address in next(checked)],
        )
        for path, user_id, said in people
    ]
    identity = call.identity
    await call.services.delivery.recipients.introduce(
        identity.tenant_id, introductions, actor_of(identity), verified=_manages(call)
    )


async def _checked(call: Call, named: Sequence[Named]) -> list[list[tuple[str, str]]]:
    """
    The addresses as they are stored: for each, its channels with the value there.

    Raises ServiceError (invalid) with every one that is none.
    """
    recipients = call.services.delivery.recipients
    has_phone = any({"sms", "whatsapp"}.intersection(one.channels) for one in named)
    region = await recipients.region(call.identity.tenant_id) if has_phone else None
    checked: list[list[tuple[str, str]]] = []
    faults = []
    for path, channels, text in named:
        try:
            value = normalise(channels[0], text, region, plain_http=recipients.plain_http)
        except ValueError as error:  # a sentence that does not repeat the address
            faults.append(Fault(path, str(error)))
        else:
            checked.append([(channel, value) for channel in channels])
    if faults:
        raise refused(faults)
    return checked


def _manages(call: Call) -> bool:
    """Whether the caller acts for others, and answers for the addresses that they name."""
    return call.identity.has(_MANAGING)


def _position(cursor: str) -> str:
    try:
        name = decode_base64url(cursor).decode()
    except ValueError:
        raise invalid("cursor", "must be the next_cursor of another page") from None
    if not is_user_id(name):
        raise invalid("cursor", "must be the next_cursor of another page")
    return name


def _address(one: RecipientAddress) -> PersonAddress:
    return PersonAddress(
        id=str(one.id),
        channel=one.channel,
        hint=one.hint,
        is_primary=one.is_primary,
        verified_at=one.verified_at,
        paused_at=one.paused_at,
        pause_reason=one.pause_reason,
        window_until=one.window_until,
        created_at=one.created_at,
    )


def _person(one: Recipient) -> KnownPerson:
    return KnownPerson(
        user_id=one.user_id,
        name=one.name,
        locale=one.locale,
        timezone=one.timezone,
        is_active=one.is_active,
        preferences=dict(one.preferences),
        addresses=[_address(address) for address in one.addresses],
        created_at=one.created_at,
        updated_at=one.updated_at,
    )


_RECIPIENT = "/api/v1/recipients/{user_id}"
_ADDRESS = _RECIPIENT + "/addresses/{address_id:uuid}"


def operations() -> tuple[Operation, ...]:
    """The lines of the table of routes."""
    return (
        Operation(
            method="GET",
            path="/api/v1/recipients",
            handler=page,
            summary="List people",
            tag="recipients",
            scopes=(_MANAGING,),
            query=PeopleQuery,
            answers={200: KnownPeople},
        ),
        Operation(
            method="PUT",
            path=_RECIPIENT,
            handler=put,
            summary="Know a person",
            tag="recipients",
            body=PersonBody,
            answers={200: KnownPerson, 201: KnownPerson},
            problems=("conflict",),
            examples={
                "with addresses": {
                    "name": "Ada Lovelace",
                    "locale": "en-GB",
                    "timezone": "Europe/London",
                    "addresses": [
                        {"channel": "email", "value": "ada@example.com"},
                        {"channel": "sms", "value": "+442079460000"},
                    ],
                }
            },
        ),
        Operation(
            method="GET",
            path=_RECIPIENT,
            handler=find,
            summary="Look up a person",
            tag="recipients",
            answers={200: KnownPerson},
        ),
        Operation(
            method="DELETE",
            path=_RECIPIENT,
            handler=delete,
            summary="Forget a person",
            tag="recipients",
            answers={204: None},
        ),
        Operation(
            method="POST",
            path=_RECIPIENT + "/addresses",
            handler=add_address,
            summary="Add an address",
            tag="recipients",
            body=NewAddress,
            answers={200: AddedAddress, 201: AddedAddress},
            problems=("conflict",),
            examples={"a phone": {"channel": "sms", "value": "+442079460000"}},
        ),
        Operation(
            method="GET",
            path=_RECIPIENT + "/addresses",
            handler=addresses,
            summary="List a person's addresses",
            tag="recipients",
            answers={200: PersonAddresses},
        ),
        Operation(
            method="PATCH",
            path=_ADDRESS,
            handler=change_address,
            summary="Change an address",
            tag="recipients",
            body=AddressChange,
            answers={200: PersonAddress},
            problems=("conflict",),
            examples={"the primary": {"primary": True}, "no more of anything": {"paused": True}},
        ),
        Operation(
            method="DELETE",
            path=_ADDRESS,
            handler=delete_address,
            summary="Take an address away",
            tag="recipients",
            answers={204: None},
        ),
        Operation(
            method="POST",
            path=_ADDRESS + "/secret",
            handler=new_secret,
            summary="Give a webhook another secret",
            tag="recipients",
            answers={200: AddressSecret},
            problems=("conflict",),
        ),
        Operation(
            method="POST",
            path=_ADDRESS + "/verification",
            handler=send_code,
            summary="Send a code to an address",
            tag="recipients",
            answers={202: CodeSent},
            problems=("conflict", "rate_limited"),
        ),
        Operation(
            method="POST",
            path=_ADDRESS + "/verification/confirm",
            handler=confirm,
            summary="Confirm an address",
            tag="recipients",
            body=Code,
            answers={200: PersonAddress},
            examples={"what came": {"code": "271828"}},
        ),
    )
