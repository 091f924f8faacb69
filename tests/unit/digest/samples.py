"""
One day in four languages, as the document and the mails that are kept in tests/vectors.

    python -m tests.unit.digest.samples     # write them anew, for somebody to look at
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from app.working import digest_mail
from core.notification import Content
from delivery.channel import Address, Message
from delivery.mail import Mail, Sender, compose
from digest.rendering import words
from digest.summary import Digest, Item, summarise

VECTORS = Path(__file__).parents[2] / "vectors"
NOW = datetime(2026, 3, 27, 6, 0, tzinfo=UTC)
SITE = "https://app.example.test"

#: Title, message, type, priority, link, group, hours ago, whether it was read; by language.
Told = tuple[str, str, str, str, str | None, str | None, int, bool]

ENGLISH: tuple[Told, ...] = (
    (
        "Your signature is needed",
        "IEP of J. D., annual review. Please sign before Friday.",
        "signature_request",
        "urgent",
        "/iep/12345/review",
        "iep/12345",
        2,
        False,
    ),
    (
        "IEP Document Updated",
        "The goals for reading have changed.",
        "iep_update",
        "high",
        "/iep/12345",
        "iep/12345",
        3,
        False,
    ),
    (
        "IEP Document Updated",
        "A new accommodation was added.",
        "iep_update",
        "high",
        "/iep/12345",
        "iep/12345",
        5,
        False,
    ),
    (
        "Assessment complete",
        "Reading, grade 4: the results are in.",
        "assessment_complete",
        "normal",
        "https://results.example.test/4?pupil=7&term=1",
        None,
        9,
        False,
    ),
    (
        "Maintenance on Sunday",
        "The gradebook is read-only from 06:00 to 07:30.",
        "system",
        "low",
        None,
        None,
        20,
        False,
    ),
    (
        "Welcome",
        "Everything that happens while you are away waits for you here.",
        "system",
        "normal",
        None,
        None,
        22,
        True,
    ),
)
GERMAN: tuple[Told, ...] = (
    (
        "Ihre Unterschrift fehlt",
        "Förderplan von J. D., Jahresgespräch. Bitte bis Freitag unterschreiben.",
        "signature_request",
        "urgent",
        "/iep/12345/review",
        "iep/12345",
        2,
        False,
    ),
    (
        "Förderplan geändert",
        "Die Leseziele sind andere.",
        "iep_update",
        "high",
        "/iep/12345",
        "iep/12345",
        3,
        False,
    ),
    (
        "Auswertung fertig",
        "Lesen, 4. Klasse: Die Ergebnisse sind da.",
        "assessment_complete",
        "normal",
        "https://results.example.test/4",
        None,
        9,
        False,
    ),
)
ARABIC: tuple[Told, ...] = (
    (
        "توقيعك مطلوب",
        "خطة J. D. التعليمية، المراجعة السنوية. يرجى التوقيع قبل يوم الجمعة.",
        "signature_request",
        "urgent",
        "/iep/12345/review",
        "iep/12345",
        2,
        False,
    ),
    ("تم تحديث الخطة", "تغيّرت أهداف القراءة.", "iep_update", "high", "/iep/12345", "iep/12345", 3, False),
    (
        "اكتمل التقييم",
        "القراءة، الصف الرابع: ظهرت النتائج.",
        "assessment_complete",
        "normal",
        "https://results.example.test/4",
        None,
        9,
        False,
    ),
    (
        "صيانة يوم الأحد",
        "سجل الدرجات للقراءة فقط من 06:00 إلى 07:30.",
        "system",
        "low",
        None,
        None,
        20,
        False,
    ),
)
KINYARWANDA: tuple[Told, ...] = (
    (
        "Harakenewe umukono wawe",
        "Gahunda y’uburezi ya J. D., isuzuma ry’umwaka. Musabwe gusinya mbere yo ku wa gatanu.",
        "signature_request",
        "urgent",
        "/iep/12345/review",
        "iep/12345",
        2,
        False,
    ),
    (
        "Isuzuma ryarangiye",
        "Gusoma, umwaka wa 4: ibisubizo byabonetse.",
        "assessment_complete",
        "normal",
        "https://results.example.test/4",
        None,
        9,
        False,
    ),
    ("Bisi iratinda", "Izahagera saa 07:40.", "bus_delay", "low", None, None, 1, False),
)
#: What a narrow screen has to break.
LONG: tuple[Told, ...] = (
    (
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
        "https://example.test/" + "a-very-long-path/" * 9,
        "rechtsschutzversicherungsgesellschaften_quartalsabrechnungsbenachrichtigung",
        "urgent",
        "/iep/12345/review",
        None,
        2,
        False,
    ),
    ("W" * 120, "m" * 200, "system", "high", None, None, 3, False),
)
HOSTILE: tuple[Told, ...] = (
    (
        "<script>alert(1)</script>",
        "</div><img src=x onerror=alert(2)> & \"quoted\" 'single'",
        "<b>type</b>",
        "urgent",
        'https://example.test/"><script>alert(3)</script>',
        "<i>group</i>",
        1,
        False,
    ),
    ("\u202egnp.exe", "{date} {n} %s {{x}}", "iep_update", "high", "//evil.example/x", None, 1, False),
    ("Link", "A link of another kind.", "iep_update", "high", "javascript:alert(4)", None, 1, False),
)

#: Language -> what is told, and where its person lives.
LANGUAGES = {
    "en": (ENGLISH, "America/New_York"),
    "de": (GERMAN, "Europe/Berlin"),
    "ar": (ARABIC, "Africa/Cairo"),
    "rw": (KINYARWANDA, "Africa/Kigali"),
}


def items(told: tuple[Told, ...]) -> list[Item]:
    return [
        Item(
            id=UUID(int=number),
            title=title,
            message=message,
            notification_type=kind,
            priority=priority,
            action_url=link,
            group_key=group,
            created_at=NOW - timedelta(hours=hours),
            is_read=is_read,
            seq=40 + number,
        )
        for number, (title, message, kind, priority, link, group, hours, is_read) in enumerate(told, 1)
    ]


def digest(told: tuple[Told, ...], timezone: str) -> Digest:
    """The next one lies beyond the night in which the clocks of Berlin change."""
    return summarise(
        items(told),
        day=date(2026, 3, 27),
        timezone=timezone,
        now=NOW,
        after={"user:ada": 40, "tenant": 3},
        until={"user:ada": 40 + len(told), "tenant": 3},
        next_run_at=datetime(2026, 3, 29, 7, 0, tzinfo=ZoneInfo(timezone)).astimezone(UTC),
    )


def mail(told: tuple[Told, ...], timezone: str, locale: str, site: str | None = SITE) -> Mail:
    """As the worker sends it."""
    made = digest(told, timezone)
    title, message = words(made, locale)
    content = Content(
        id=UUID(int=99),
        title=title,
        message=message,
        notification_type="digest",
        action_url=None,
        priority="high",
        channels=["email"],
        metadata=msgspec.json.decode(msgspec.json.encode({"digest": made.document})),
        created_at=NOW,
    )
    subject, text, html = digest_mail(content, locale, site)
    return compose(
        Message(
            tenant_id="school",
            delivery_id=UUID(int=98),
            attempt=1,
            reference="98",
            address=Address(id=None, channel="email", value="ada@example.test", hint="a***@example.test"),
            title=subject,
            text=text,
            html=html,
            notification_id=content.id,
            notification_type="digest",
            priority="high",
            created_at=NOW,
            locale=locale,
            unsubscribe_url="https://notify.example.test/u/AAAA",
            preferences_url="https://notify.example.test/p/AAAA",
        ),
        Sender(address="school@example.test", name="The School"),
    )


def document() -> str:
    """The JSON of the English day, as it is kept."""
    made: dict[str, Any] = dict(digest(*LANGUAGES["en"]).document)
    return msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n"


def kept() -> dict[str, str]:
    """Every file, by its name."""
    files = {"digest.json": document()}
    for language, (told, timezone) in LANGUAGES.items():
        made = mail(told, timezone, language)
        files[f"digest-{language}.txt"] = f"Subject: {made.subject}\n\n{made.text}"
        files[f"digest-{language}.html"] = made.html
    return files


if __name__ == "__main__":
    for name, text in kept().items():
        (VECTORS / name).write_text(text, encoding="utf-8")
