"""Templates of the clauses of the `phrases` corpus in each language."""

from dataclasses import dataclass


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


def _forms(pattern: str, forms: str) -> tuple[str, ...]:
    """Return the pattern with each of the forms, which commas separate, in place of `*`."""
    return tuple(pattern.replace("*", form) for form in forms.split(", "))


TEMPLATES: dict[str, ClauseTemplates] = {
    "en": ClauseTemplates(
        connectives=("; ", " and ", " or ", ", but "),
        at="at {}",
        on_date="on {}",
        on_weekday="on {}",
        ordinals=_forms("the {} *", "day, week, month, year, century, hour, minute"),
        spoke=_forms("* spoke {language} {when}", "I, he, she, we, they"),
        will_speak=_forms("* will speak {language} {when}", "I, he, she, we, they"),
        pay=_forms("* {what} {when}", "I pay, he pays, she pays, we pay, they pay"),
        need=_forms("* {what} for {aim}", "I need, he needs, she needs, we need, they need"),
    ),
    "de": ClauseTemplates(
        connectives=("; ", " und ", " oder ", ", aber "),
        at="um {} Uhr",
        on_date="am {}",
        on_weekday="am {}",
        ordinals=_forms(
            "*",
            "der {} Tag, die {} Woche, der {} Monat, das {} Jahr, "
            "das {} Jahrhundert, die {} Stunde, die {} Minute",
        ),
        spoke=_forms("{when} * {language}", "sprach ich, sprach er, sprach sie, sprachen wir, sprachen sie"),
        will_speak=_forms(
            "{when} * {language} sprechen", "werde ich, wird er, wird sie, werden wir, werden sie"
        ),
        pay=_forms("{when} * {what}", "zahle ich, zahlt er, zahlt sie, zahlen wir, zahlen sie"),
        need=_forms("für {aim} * {what}", "brauche ich, braucht er, braucht sie, brauchen wir, brauchen sie"),
    ),
    "fr": ClauseTemplates(
        connectives=(" ; ", " et ", " ou ", ", mais "),
        at="à {}",
        on_date="le {}",
        on_weekday="{}",
        ordinals=_forms(
            "*", "le {} jour, la {} semaine, le {} mois, la {} année, le {} siècle, la {} heure, la {} minute"
        ),
        spoke=_forms(
            "{when}, * {language}", "je parlais, il parlait, elle parlait, nous parlions, ils parlaient"
        ),
        will_speak=_forms(
            "{when}, * {language}", "je parlerai, il parlera, elle parlera, nous parlerons, ils parleront"
        ),
        pay=_forms("{when}, * {what}", "je paie, il paie, elle paie, nous payons, ils paient"),
        need=_forms("pour {aim}, * besoin de {what}", "j’ai, il a, elle a, nous avons, ils ont"),
    ),
}
