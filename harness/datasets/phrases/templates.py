"""Templates of the clauses of the `phrases` corpus in each language."""

from __future__ import annotations

from dataclasses import dataclass

_SUBJECTS = ("I", "he", "she", "we", "they")
_NOUNS = ("day", "week", "month", "year", "century", "hour", "minute")


@dataclass(frozen=True)
class ClauseTemplates:
    """Word order, verb forms and prepositions of one language.

    Tuples of statements have one template per subject: I, he, she, we, they.
    """

    connectives: tuple[str, ...]  # between clauses; none changes the word order of the next clause
    at: str
    on_date: str
    on_weekday: str
    ordinals: tuple[str, ...]  # the fifth day, week, month, year, century, hour, minute
    spoke: tuple[str, ...]  # {when} {language}
    will_speak: tuple[str, ...]  # {when} {language}
    pay: tuple[str, ...]  # {when} {what}
    need: tuple[str, ...]  # {what} {aim}


TEMPLATES: dict[str, ClauseTemplates] = {
    "en": ClauseTemplates(
        connectives=("; ", " and ", " or ", ", but "),
        at="at {}",
        on_date="on {}",
        on_weekday="on {}",
        ordinals=tuple(f"the {{}} {noun}" for noun in _NOUNS),
        spoke=tuple(f"{subject} spoke {{language}} {{when}}" for subject in _SUBJECTS),
        will_speak=tuple(f"{subject} will speak {{language}} {{when}}" for subject in _SUBJECTS),
        pay=tuple(
            f"{subject_verb} {{what}} {{when}}"
            for subject_verb in ("I pay", "he pays", "she pays", "we pay", "they pay")
        ),
        need=tuple(
            f"{subject_verb} {{what}} for {{aim}}"
            for subject_verb in ("I need", "he needs", "she needs", "we need", "they need")
        ),
    ),
    "de": ClauseTemplates(
        connectives=("; ", " und ", " oder ", ", aber "),
        at="um {} Uhr",
        on_date="am {}",
        on_weekday="am {}",
        ordinals=(
            "der {} Tag",
            "die {} Woche",
            "der {} Monat",
            "das {} Jahr",
            "das {} Jahrhundert",
            "die {} Stunde",
            "die {} Minute",
        ),
        spoke=tuple(
            f"{{when}} {subject_verb} {{language}}"
            for subject_verb in ("sprach ich", "sprach er", "sprach sie", "sprachen wir", "sprachen sie")
        ),
        will_speak=tuple(
            f"{{when}} {subject_verb} {{language}} sprechen"
            for subject_verb in ("werde ich", "wird er", "wird sie", "werden wir", "werden sie")
        ),
        pay=tuple(
            f"{{when}} {subject_verb} {{what}}"
            for subject_verb in ("zahle ich", "zahlt er", "zahlt sie", "zahlen wir", "zahlen sie")
        ),
        need=tuple(
            f"für {{aim}} {subject_verb} {{what}}"
            for subject_verb in ("brauche ich", "braucht er", "braucht sie", "brauchen wir", "brauchen sie")
        ),
    ),
    "fr": ClauseTemplates(
        connectives=(" ; ", " et ", " ou ", ", mais "),
        at="à {}",
        on_date="le {}",
        on_weekday="{}",
        ordinals=(
            "le {} jour",
            "la {} semaine",
            "le {} mois",
            "la {} année",
            "le {} siècle",
            "la {} heure",
            "la {} minute",
        ),
        spoke=tuple(
            f"{{when}}, {subject_verb} {{language}}"
            for subject_verb in ("je parlais", "il parlait", "elle parlait", "nous parlions", "ils parlaient")
        ),
        will_speak=tuple(
            f"{{when}}, {subject_verb} {{language}}"
            for subject_verb in (
                "je parlerai",
                "il parlera",
                "elle parlera",
                "nous parlerons",
                "ils parleront",
            )
        ),
        pay=tuple(
            f"{{when}}, {subject_verb} {{what}}"
            for subject_verb in ("je paie", "il paie", "elle paie", "nous payons", "ils paient")
        ),
        need=tuple(
            f"pour {{aim}}, {subject_verb} besoin de {{what}}"
            for subject_verb in ("j’ai", "il a", "elle a", "nous avons", "ils ont")
        ),
    ),
}
