"""One self-contained HTML page about evaluations and the runs that they are of."""

from html import escape

from ring_rl.evaluate.contents import Contents, trained_for
from ring_rl.evaluate.markup import note, swatch, table, warning
from ring_rl.evaluate.page_style import STYLE
from ring_rl.evaluate.pictures import Names, Picture, name_all, of_training
from ring_rl.evaluate.recordings import LIMIT
from ring_rl.evaluate.section import Section, shown
from ring_rl.version import __version__

_WORDS = (
    ("return", "undiscounted sum of the rewards of one episode"),
    ("trial", "one episode within a context: the policy remembers its earlier trials"),
    ("rollout", "one row of trials 1 to n in one task, in one context"),
    ("seed", "one training run; seeds of one configuration are put together"),
    ("first, mean, last", "return of trial 1, mean over all trials, return of trial n"),
    (
        "max of n",
        "the largest of a rollout's n returns. It rewards variance: read it beside the "
        "others only",
    ),
    ("last - first", "difference within the same rollout"),
    (
        "control other-task",
        "each rollout plays trials 1 to n - 1 in another task than its last, so that "
        "its context tells of the wrong one. Only the last trial is of the rollout's "
        "own task: what is of the others is shown as -",
    ),
    (
        "IQM",
        "interquartile mean of the last trial's return, over what is drawn again for "
        "the intervals",
    ),
    ("[low, high]", "95 % bootstrap interval; what is drawn again is said with each"),
)


def html_page(contents: Contents) -> tuple[str, list[Picture]]:
    """Builds the page, and the pictures in it.

    The page needs no other file, no network and no script, and is the same for the
    same contents.
    """
    names = name_all(contents)
    sections, pictures = [], []
    environments = dict.fromkeys(
        one.evaluation["conditions"]["environment"] for one in contents.evaluated
    )
    room, drawn = LIMIT, set()
    for before, environment in enumerate(environments):
        members = [
            index
            for index, one in enumerate(contents.evaluated)
            if one.evaluation["conditions"]["environment"] == environment
        ]
        section = Section(environment, members, contents, names)
        section.returns()
        drawn |= section.training()
        section.attention()
        room -= section.recordings(room // (len(environments) - before))
        section.protocol()
        sections.append((environment, section.parts))
        pictures += section.pictures
    left = [index for index in range(len(contents.histories)) if index not in drawn]
    if left:
        title = "Training without an evaluation"
        made = of_training("not evaluated", left, contents, names)
        pictures += made
        told = shown(made) if made else note("No metrics were found.")
        sections.append((title, [told]))
    parts = [(f"part-{i}", title) for i, (title, _) in enumerate(sections, 1)]
    parts += [("runs", "Training runs")] if contents.histories else []
    parts.append(("words", "What the words mean"))
    links = "".join(
        f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in parts
    )
    body = [
        "<header><h1>Evaluation report</h1>",
        f"<p>{escape(_summary(contents))}</p></header>",
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>',
        warning("Not complete", contents.problems) if contents.problems else "",
        "<main>",
        *(
            f'<section id="part-{number}"><h2>{escape(title)}</h2>\n'
            + "\n".join(parts)
            + "</section>"
            for number, (title, parts) in enumerate(sections, 1)
        ),
        _runs(contents, names),
        _words(),
        "</main>",
        f'<footer class="note"><p>Made by ring_rl {__version__} from the files of the '
        "runs. The same files give the same page.</p></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>ring_rl evaluation</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n",
        pictures,
    )


def _summary(contents: Contents) -> str:
    count = len(contents.evaluated)
    environments = len(
        {one.evaluation["conditions"]["environment"] for one in contents.evaluated}
    )
    runs = len(contents.histories)
    unfinished = sum(not history.finished for history in contents.histories)
    text = (
        f"{count} evaluated configuration{'s' * (count != 1)} in {environments} "
        f"environment{'s' * (environments != 1)}; {runs} training "
        f"run{'s' * (runs != 1)} found"
    )
    return text + (f", {unfinished} of them unfinished." if unfinished else ".")


def _runs(contents: Contents, names: Names) -> str:
    """Every training run, whatever became of it."""
    if not contents.histories:
        return ""
    known = {
        id(history)
        for one in contents.evaluated
        for history in trained_for(one, contents.histories)
    }
    rows = []
    for history, name in zip(contents.histories, names.histories, strict=True):
        last = history.records[-1] if history.records else {}
        state = "finished" if history.finished else "unfinished"
        rows.append(
            [
                swatch(names.given[name].colour) + escape(name),
                str(history.seed),
                f"{history.made:,} of {history.steps:,}<br><small>{state}</small>",
                *(
                    f"{last[key]:.4g}" if key in last else "-"
                    for key in ("loss", "accuracy")
                ),
                "yes" if id(history) in known else "no",
                f"<code>{escape(str(history.folder))}</code>",
            ]
        )
    caption = (
        "Training runs, one line a seed. Loss (nats per action component) and accuracy "
        "(share of action components): mean over the last updates on record."
    )
    headings = ["run", "seed", "updates", "loss", "accuracy", "evaluated", "folder"]
    made = table(caption, headings, rows, texts=[6])
    return f'<section id="runs"><h2>Training runs</h2>{made}</section>'


def _words() -> str:
    entries = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in _WORDS
    )
    return (
        f'<section id="words"><h2>What the words mean</h2><dl>{entries}</dl></section>'
    )
