"""Further ways to ask for and tell what the tables of relations hold (see `phrasings`), for training alone.

`phrasings_further.tsv` has one in each line: relation, "asked" or "told", template. None of them is ever
reserved, and none that is reserved elsewhere stands there, so that worlds of the "heldout" split ask as much
that no training has seen as before.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files

from memsparse.training.phrasings import Relation

FILE = "phrasings_further.tsv"


@cache
def further() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Templates by relation and "asked" or "told"."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in files(__package__).joinpath(FILE).read_text(encoding="utf-8").splitlines():
        relation, kind, template = line.split("\t")
        found[relation, kind].append(template)
    return {key: tuple(templates) for key, templates in found.items()}


def with_further(relation: Relation) -> Relation:
    """A relation that is asked for and told in these ways, too."""
    questions = relation.questions.with_composed(further().get((relation.name, "asked"), ()), ())
    return replace(
        relation,
        questions=questions,
        nested_questions=questions.without_genitive(),
        facts=relation.facts.with_composed(further().get((relation.name, "told"), ()), ()),
    )
