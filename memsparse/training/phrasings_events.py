"""How facts about events are told and asked, and the table of all relations (see `phrasings`)."""

from memsparse.training.phrasings import PEOPLE, Pool, Relation, RelationSource, relation
from memsparse.training.phrasings_things import ORGANISATIONS, PLACES, WORKS

EVENTS: tuple[RelationSource, ...] = (
    (
        "month",
        "festival",
        "month",
        """{s} is held in {o}. | {s} takes place every {o}. | Every {o}, {s} draws a crowd. |
        {p} month is {o}. | {s} opens in {o}. | {s} falls in {o}.""",
        """In which month is {s} held? | When does {s} take place? | What month is {s} held in? |
        {s} is held in which month? | Name the month of {s}. | Tell me when {s} opens. |
        In which month does {s} fall?""",
        """the month of {s} | the month in which {s} is held | {s}'s month | the month in which {s} falls""",
    ),
    (
        "dish",
        "festival",
        "food",
        """Visitors of {s} eat {o}. | The dish of {s} is {o}. | {p} traditional dish is {o}. |
        At {s} everyone is served {o}. | {s} is loved for its {o}. |
        Nobody leaves {s} without tasting {o}.""",
        """What do visitors of {s} eat? | What is the dish of {s}? | What is {s}'s traditional dish? |
        Which food is served at {s}? | Name the traditional dish of {s}. |
        Tell me what people eat at {s}. | What does everyone taste at {s}?""",
        """the dish of {s} | the traditional dish of {s} | {s}'s dish | the food tasted at {s}""",
    ),
    (
        "event_year",
        "battle expedition",
        "event_year",
        """{s} took place in {o}. | {s} happened in {o}. | The year of {s} was {o}. |
        {s} is dated to {o}. | In {o}, {s} began. | {s} fell in the year {o}.""",
        """When did {s} take place? | In which year did {s} happen? | What was the year of {s}? |
        {s} is dated to which year? | Tell me the year of {s}. |
        Give the year in which {s} took place. | In what year did {s} fall?""",
        """the year of {s} | the year in which {s} took place | {s}'s year | the year in which {s} fell""",
    ),
    (
        "victor",
        "battle",
        "person",
        """{s} was won by {o}. | {o} won {s}. | The victor of {s} was {o}. | {p} victor was {o}. |
        {s} made {o} famous as its victor. | {s} ended with the triumph of {o}.""",
        """Who won {s}? | Who was the victor of {s}? | By whom was {s} won? | Who was {s}'s victor? |
        {s} was won by whom? | Name the victor of {s}. | Tell me who won {s}. | Who triumphed in {s}?""",
        """the victor of {s} | the person who won {s} | {s}'s victor | the person who triumphed in {s}""",
    ),
    (
        "loser",
        "battle",
        "person",
        """{s} was lost by {o}. | {o} lost {s}. | The loser of {s} was {o}. | {p} loser was {o}. |
        In {s}, {o} was beaten. | {s} ended in defeat for {o}.""",
        """Who lost {s}? | Who was the loser of {s}? | By whom was {s} lost? | Who was {s}'s loser? |
        Who was beaten in {s}? | Name the loser of {s}. | Tell me who lost {s}. |
        For whom did {s} end in defeat?""",
        """the loser of {s} | the person who lost {s} | the person beaten in {s} |
        the person defeated in {s}""",
    ),
    (
        "nearest_town",
        "battle",
        "town",
        """{s} was fought near {o}. | The field of {s} lies near {o}. |
        {o} is the town nearest to the field of {s}. | {s} took place outside {o}. |
        {s} was decided before the walls of {o}.""",
        """Near which town was {s} fought? | Where was {s} fought? |
        Outside which town did {s} take place? | Name the town near which {s} was fought. |
        {s} was fought near which town? | Tell me where {s} took place. |
        Before the walls of which town was {s} decided?""",
        """the town near which {s} was fought | the town nearest to {s} | the town by the field of {s} |
        the town before whose walls {s} was decided""",
    ),
    (
        "destination",
        "expedition",
        "island",
        """{s} set out for {o}. | The destination of {s} was {o}. | {p} destination was {o}. |
        {s} was sent to {o}. | {o} was the goal of {s}. | {s} hoped to reach {o}.""",
        """What was the destination of {s}? | Where did {s} set out for? | For which island did {s} set out? |
        What was {s}'s destination? | {s} was sent to which island? | Name the destination of {s}. |
        Which island did {s} hope to reach?""",
        """the destination of {s} | the island {s} set out for | {s}'s destination |
        the island {s} hoped to reach""",
    ),
    (
        "sponsor",
        "expedition festival",
        "organisation",
        """{s} was paid for by {o}. | {o} paid for {s}. | The sponsor of {s} was {o}. | {p} sponsor was {o}. |
        {s} was sponsored by {o}. | {s} took place thanks to the money of {o}.""",
        """Who paid for {s}? | Which organisation paid for {s}? | Who was the sponsor of {s}? |
        Who was {s}'s sponsor? | By whom was {s} sponsored? | Name the sponsor of {s}. |
        Thanks to whose money did {s} take place?""",
        """the sponsor of {s} | the organisation that paid for {s} | {s}'s sponsor |
        the organisation whose money paid for {s}""",
    ),
    (
        "vessel",
        "expedition",
        "ship",
        """{s} travelled aboard {o}. | The ship of {s} was {o}. | {p} ship was {o}. | {o} carried {s}. |
        {s} used the ship {o}. | {s} sailed on {o}.""",
        """Which ship carried {s}? | What was the ship of {s}? | Aboard which ship did {s} travel? |
        What was {s}'s ship? | {s} travelled aboard which ship? | Name the ship of {s}. |
        On what ship did {s} sail?""",
        """the ship of {s} | the ship that carried {s} | {s}'s ship | the ship on which {s} sailed""",
    ),
)

_MAKER_WORDS = {
    "ship": ("built", "built", "builder"),
    "painting": ("painted", "painted", "painter"),
    "book": ("written", "wrote", "author"),
    "device": ("invented", "invented", "inventor"),
    "bridge": ("designed", "designed", "architect"),
    "house": ("built", "built", "architect"),
}
_SHARED_BY_MAKERS = ("maker", "made_year")


def _worded(relation_: Relation, kind: str) -> Relation:
    participle, past, noun = _MAKER_WORDS[kind]

    def fill(templates: Pool) -> Pool:
        def one(text: str) -> str:
            return text.replace("{v}", participle).replace("{t}", past).replace("{n}", noun)

        return Pool(train=tuple(map(one, templates.train)), reserved=tuple(map(one, templates.reserved)))

    return Relation(
        name=relation_.name,
        domain=(kind,),
        value=relation_.value,
        person=relation_.person,
        facts=fill(relation_.facts),
        questions=fill(relation_.questions),
        nested_questions=fill(relation_.nested_questions),
        phrases=fill(relation_.phrases),
        nested_phrases=fill(relation_.nested_phrases),
        absent=relation_.absent,
    )


def _by_kind() -> dict[str, dict[str, Relation]]:
    table: dict[str, dict[str, Relation]] = {}
    for source in PEOPLE + PLACES + ORGANISATIONS + WORKS + EVENTS:
        built = relation(source)
        for kind in built.domain:
            worded = _worded(built, kind) if built.name in _SHARED_BY_MAKERS else built
            table.setdefault(kind, {})[built.name] = worded
    return table


RELATIONS: dict[str, dict[str, Relation]] = _by_kind()
"""Relations by kind of subject ("person", "town", ...), then by name."""
