"""compare.html: a run against its baseline as one file without scripts or network access."""

from markupsafe import Markup

from harness.compare.outcome import Comparison
from harness.compare.speed_verdict import DRIFT
from reports.comparison import changed_first
from reports.page.templating import environment, template


def comparison_to_html(comparison: Comparison) -> str:
    """Return a page with the verdict, the frontier, the changed figures, and the others collapsed."""
    changed, rest = changed_first(comparison)
    page = environment().get_template("compare.html.j2")
    return page.render(
        style=Markup(template("style.css")),
        comparison=comparison,
        changed=changed,
        rest=rest,
        not_compared=[trial for trial in comparison.trials if trial.state != "compared"],
        flipped=[trial for trial in comparison.trials if trial.flipped],
        drift=DRIFT,
    )
