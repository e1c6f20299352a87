"""The table of all relations: what may be said of which kind of subject."""

from memsparse.training.phrasings import Relation
from memsparse.training.phrasings_events import EVENTS
from memsparse.training.phrasings_further import with_further
from memsparse.training.phrasings_lives import LIVES
from memsparse.training.phrasings_more import MORE
from memsparse.training.phrasings_people import PEOPLE
from memsparse.training.phrasings_places import ORGANISATIONS, PLACES
from memsparse.training.phrasings_works import MAKERS, WORKS


def _by_kind() -> dict[str, dict[str, Relation]]:
    table: dict[str, dict[str, Relation]] = {}
    for relation in PEOPLE + LIVES + PLACES + ORGANISATIONS + MAKERS + WORKS + EVENTS + MORE:
        for kind in relation.domain:
            table.setdefault(kind, {})[relation.name] = with_further(relation)
    return table


RELATIONS: dict[str, dict[str, Relation]] = _by_kind()
"""Relations by kind of subject ("person", "town", ...), then by name."""

GROUP_OF = {"school": "organisation"}
"""Kinds of entities a relation may ask for that are rows of the table under another name."""
