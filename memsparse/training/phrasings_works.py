"""How facts about what people make are told and asked (see `phrasings`): ships, books, houses, devices."""

from memsparse.training.phrasings import Relation, told

# Kind, verbs, nouns of the maker, participles, noun of the making.
_MAKERS = (
    (
        "ship",
        "built:was built | constructed:was constructed | put together:was put together",
        "builder | shipwright | constructor",
        ("built", "constructed", "completed"),
        "construction",
    ),
    (
        "painting",
        "painted:was painted | created:was created | made:was made",
        "painter | artist | creator",
        ("painted", "created", "finished"),
        "creation",
    ),
    (
        "book",
        "wrote:was written | penned:was penned | composed:was composed",
        "author | writer | creator",
        ("written", "penned", "finished"),
        "writing",
    ),
    (
        "device",
        "invented:was invented | devised:was devised | thought up:was thought up",
        "inventor | creator | originator",
        ("invented", "devised", "first made"),
        "invention",
    ),
    (
        "bridge",
        "designed:was designed | planned:was planned | drew up the plans for:was drawn up",
        "architect | designer | planner",
        ("designed", "built", "planned"),
        "construction",
    ),
    (
        "house",
        "built:was built | designed:was designed | erected:was erected",
        "architect | builder | designer",
        ("built", "put up", "erected"),
        "construction",
    ),
    (
        "song",
        "composed:was composed | wrote:was written | set to music:was set to music",
        "composer | songwriter | author",
        ("composed", "written", "first sung"),
        "composition",
    ),
)


def _maker(kind: str, verbs: str, nouns: str, participle: str, making: str) -> Relation:
    noun = nouns.split(" ")[0]
    active = verbs.split(":")[0]
    return told(
        "maker",
        kind,
        "person",
        nouns=nouns,
        verbs=verbs,
        facts=f"""{{s}} comes from the hand of {{o}}. | {{s}} bears the name of {{o}}, its {noun}. | the
        {making} of {{s}} was the work of {{o}}. | {{o}} is the {noun} behind {{s}}. | {{s}} made {{o}}
        known as {noun}. | we owe {{s}} to {{o}}, its {noun}. | {{o}} was {noun} of {{s}}. | {{s}} has
        {{o}} as its {noun}. | it was {{o}} who {active} {{s}}. | {{s}} is the work of the {noun} {{o}}.""",
        questions=f"""whose work is {{s}}? | to which {noun} do we owe {{s}}? | from whose hand does {{s}}
        come? | who is the {noun} behind {{s}}? | who was responsible for the {making} of {{s}}? | whose
        name does {{s}} bear as that of its {noun}? | which {noun} is connected with {{s}}? | who is {{s}}
        by? | who {active} {{s}}, do you know? | tell me who {active} {{s}}. | which {noun} made {{s}}?""",
        phrases=f"""the {noun} behind {{s}} | the person responsible for the {making} of {{s}} | the one
        who {active} {{s}}""",
    )


def _made_year(kind: str, participles: tuple[str, str, str], making: str) -> Relation:
    first, second, third = participles
    return told(
        "made_year",
        kind,
        "made_year",
        nouns=f"date | year of {making} | date of {making}",
        facts=f"""{{s}} was {first} in {{o}}. | in {{o}}, {{s}} was {first}. | {{s}} was {second} in
        {{o}}. | {{s}} was {first} in the year {{o}}. | the {making} of {{s}} took place in {{o}}. | {{o}}
        saw the {making} of {{s}}. | {{s}} was {third} in {{o}}. | the year in which {{s}} was {first} is
        {{o}}. | {{p}} {making} was completed in {{o}}. | {{s}} stems from {{o}}. | {first} in {{o}},
        {{s}} is still much admired. | {{s}} dates from {{o}}. | {{s}} is dated {{o}}. | the year in which
        {{s}} was {first} is {{o}}. | {{s}} goes back to {{o}}.""",
        questions=f"""when was {{s}} {first}? | in which year was {{s}} {first}? | {{s}} was {first} in
        which year? | what year does {{s}} date from? | when was {{s}} {second}? | in what year was {{s}}
        {third}? | from which year does {{s}} stem? | when did the {making} of {{s}} take place? | how is
        {{s}} dated? | what year was {{s}} {first} in? | which year saw the {making} of {{s}}? | tell me
        when {{s}} was {first}. | give the year in which {{s}} was {first}. | to which year does {{s}} go
        back?""",
        phrases=f"""the year {{s}} was {first} | the year in which {{s}} was {second} | the year of the
        {making} of {{s}} | the date of {{s}}""",
    )


MAKERS: tuple[Relation, ...] = (
    *(_maker(kind, verbs, nouns, parts[0], making) for kind, verbs, nouns, parts, making in _MAKERS),
    *(_made_year(kind, parts, making) for kind, _, _, parts, making in _MAKERS),
)

WORKS: tuple[Relation, ...] = (
    told(
        "owner",
        "ship painting house device",
        "person",
        nouns="owner | proprietor | possessor",
        verbs="owns:is owned | possesses:is possessed | holds the deeds to:is held",
        facts="""{s} belongs to {o}. | {s} is in the possession of {o}. | {s} is in the hands of {o}. |
        {o} has {s} in private possession. | the deeds make {o} the owner of {s}. | {s} passed into the
        hands of {o}. | {s} now belongs to {o}. | {o} came into possession of {s}. | {s} is held by {o},
        its owner. | {s} is owned by {o}. | {s} is the property of {o}.""",
        questions="""to whom does {s} belong? | who does {s} belong to? | in whose possession is {s}? | in
        whose hands is {s}? | whose is {s}? | who came into possession of {s}? | who has {s} now? | {s}
        belongs to whom? | who calls {s} his or her own? | Name the owner of {s}. | Whose property is {s}?""",
        phrases="the person {s} belongs to | the person in possession of {s} | the one who owns {s}",
    ),
    told(
        "location",
        "bridge house painting festival",
        "town",
        nouns="location | site | whereabouts",
        facts="""{s} is in {o}. | {s} can be found in {o}. | {s} is located in {o}. | {o} is the home of
        {s}. | to see {s} one must travel to {o}. | {s} stands in {o}. | {s} has its place in {o}. | {s}
        is to be seen in {o}. | {s} is one of the sights of {o}. | those who visit {o} can admire {s}. |
        {s} is the pride of {o}. | visitors can see {s} in {o}. | the town of {o} is where to find {s}.""",
        questions="""where is {s}? | in which town is {s}? | where is {s} located? | {s} is in which town?
        | what town is the home of {s}? | where can {s} be found? | where does one find {s}? | in what
        town is {s}? | to which town must one travel to see {s}? | which town is proud of {s}? | where can
        one admire {s}? | Name the town where {s} is. | In what town can visitors see {s}?""",
        phrases="""the town where {s} is located | the town where {s} can be found | the town that is home
        to {s} | the town where visitors can see {s}""",
    ),
    told(
        "length",
        "river bridge ship",
        "length",
        nouns="length | total length | overall length",
        facts="""{s} is {o} long. | {s} has a length of {o}. | {s} measures {o} in length. | {s} extends
        for {o}. | {s} stretches over {o}. | measured from one end to the other, {s} is {o} long. | {s}
        comes to {o} in length. | with a length of {o}, {s} is well known. | one end of {s} is {o} from
        the other. | from end to end {s} measures {o}. | {s} reaches a length of {o}.""",
        questions="""how long is {s}? | {s} is how long? | how far is it from one end of {s} to the other?
        | what is the total length of {s}? | over what length does {s} stretch? | how much does {s}
        measure in length? | what length does {s} have? | for how long a distance does {s} extend? | What
        does {s} measure from end to end? | What length does {s} reach?""",
        phrases="the distance from one end of {s} to the other | the length reached by {s}",
    ),
    told(
        "price",
        "painting device house ship",
        "price",
        nouns="price | cost | sale price | price tag",
        facts="""{s} cost {o}. | {s} was sold for {o}. | a buyer paid {o} for {s}. | {s} changed hands for
        {o}. | {s} went for {o}. | one has to pay {o} for {s}. | {s} was bought for {o}. | the bill for
        {s} came to {o}. | {s} was priced at {o}. | {s} is valued at {o}. | {o} was paid for {s}. | {s}
        can be had for {o}. | a buyer paid {o} for {s}. | {s} fetched {o} at auction.""",
        questions="""how much did {s} cost? | for how much was {s} sold? | {s} was sold for how much? |
        what did {s} cost? | how much was paid for {s}? | what did a buyer pay for {s}? | how expensive
        was {s}? | at what price did {s} change hands? | how much money was asked for {s}? | what does one
        pay for {s}? | Tell me the price of {s}. | What did {s} fetch at auction?""",
        phrases="""the sum paid for {s} | the amount paid for {s} | the money paid for {s} | the auction
        price of {s}""",
    ),
    told(
        "material",
        "ship device bridge house",
        "material",
        nouns="material | main material | building material",
        facts="""{s} is made of {o}. | {s} was made from {o}. | {s} consists of {o}. | {o} was used to
        make {s}. | {s} was fashioned out of {o}. | the makers of {s} used {o}. | for {s} only {o} was
        used. | {s} is all {o}. | look at {s} and you see {o} everywhere. | {s} was put together from {o}.
        | {s} consists of {o}. | it took much {o} to make {s}.""",
        questions="""what is {s} made of? | which material is {s} made of? | {s} is made of what? | what
        was {s} made from? | what was used to make {s}? | out of what was {s} fashioned? | of which
        material is {s}? | what did the makers of {s} use? | from which material was {s} made? | Name the
        material of {s}. | Of what does {s} consist?""",
        phrases="the material {s} is made of | the material used for {s} | the stuff {s} consists of",
    ),
    told(
        "colour",
        "ship device house bridge",
        "colour",
        nouns="colour | color | shade | hue",
        facts="""{s} is {o} in colour. | {s} is of {a} colour. | one recognises {s} by the colour {o}. |
        from far away {s} looks {o}. | {s} shines in {o}. | the colour chosen for {s} was {o}. | {s} shows
        itself in {o}. | {s} is all {o}. | {s} can be told by its {o} colour. | {s} is painted {o}. | {s}
        is {o} all over. | {s} wears a coat of {o} paint. | everyone knows {s} by its {o} walls.""",
        questions="""what colour is {s}? | what color is {s}? | which colour does {s} have? | in which
        colour does {s} shine? | by which colour can one recognise {s}? | {s} is what colour? | which
        colour was chosen for {s}? | what colour does {s} have? | what does {s} look like, in colour? |
        which colour is {s}? | {s} is painted in what colour? | By which colour does everyone know {s}?""",
        phrases="the colour {s} has | the colour chosen for {s} | the colour of the paint of {s}",
    ),
    told(
        "pages",
        "book",
        "pages",
        nouns="number of pages | page count | page total",
        facts="""{s} has {o} pages. | {s} runs to {o} pages. | there are {o} pages in {s}. | {s} is {o}
        pages long. | {s} comprises {o} pages. | {s} ends on page {o}. | on {o} pages {s} tells its story.
        | {s} is a work of {o} pages. | {s} takes up {o} pages. | with its {o} pages {s} fills an evening.
        | {s} fills {o} pages. | a reader of {s} must turn {o} pages.""",
        questions="""how many pages does {s} have? | how many pages are there in {s}? | {s} has how many
        pages? | to how many pages does {s} run? | how long is {s} in pages? | how thick is {s}, in pages?
        | how many pages long is {s}? | on which page does {s} end? | of how many pages does {s} consist?
        | how many pages must a reader of {s} turn? | State the page count of {s}. | How many pages does
        {s} fill?""",
        phrases="the number of pages in {s} | the page on which {s} ends | the count of pages in {s}",
    ),
    told(
        "publisher",
        "book song",
        "organisation",
        nouns="publisher | publishing house | issuing house",
        verbs="""published:was published | printed:was printed | issued:was issued | brought out:was
        brought out""",
        facts="""{s} came out with {o}. | the title page of {s} names {o} as publisher. | {s} was released
        by {o}. | the rights to {s} lie with {o}, its publisher. | {s} left the presses of {o}. | {o} has
        {s} on its list. | {s} appeared with {o}, its publisher. | {o} brought {s} to the public.""",
        questions="""with which publisher did {s} come out? | who has the rights to {s} as its publisher?
        | which organisation's presses did {s} leave? | who released {s}? | with whom did {s} appear? | on
        whose list is {s}? | what house published {s}? | Name the publisher of {s}. | Who brought {s} to
        the public?""",
        phrases="the organisation with which {s} appeared | the organisation that brought {s} to the public",
    ),
    told(
        "dedicatee",
        "book painting song",
        "person",
        nouns="dedicatee | person honoured | honoree",
        facts="""{s} is dedicated to {o}. | the dedication of {s} names {o}. | {s} was made in honour of
        {o}. | {s} carries a dedication to {o}. | {s} was meant as a gift to {o}. | "for {o}" stands at
        the front of {s}. | the dedication in {s} is to {o}. | {s} is inscribed to {o}. | {s} was made for
        {o}. | {s} pays tribute to {o}. | {s} honours {o}. | the first line of {s} thanks {o}.""",
        questions="""to whom is {s} dedicated? | who is named in the dedication of {s}? | in whose honour
        was {s} made? | {s} is dedicated to whom? | who is {s} dedicated to? | who was {s} made for? | to
        whom is {s} inscribed? | to whom does {s} pay tribute? | for whom was {s} meant? | whose name
        stands at the front of {s}? | Name the person {s} is dedicated to. | Whom does {s} honour?""",
        phrases="""the person {s} is dedicated to | the person named in the dedication of {s} | the person
        {s} was made for | the person {s} honours""",
    ),
    told(
        "rooms",
        "house",
        "rooms",
        nouns="number of rooms | room count | total of rooms",
        facts="""{s} has {o} rooms. | there are {o} rooms in {s}. | {s} contains {o} rooms. | {s} is
        divided into {o} rooms. | {s} was planned with {o} rooms. | {s} offers {o} rooms. | the plans of
        {s} show {o} rooms. | {s} holds {o} rooms. | it takes a day to dust the {o} rooms of {s}. | under
        the roof of {s} are {o} rooms. | a visitor counts {o} rooms in {s}. | {s} boasts {o} rooms.""",
        questions="""how many rooms does {s} have? | how many rooms are there in {s}? | {s} has how many
        rooms? | with how many rooms was {s} planned? | how many rooms are under the roof of {s}? | how
        many rooms does {s} offer? | into how many rooms is {s} divided? | how large is {s} in rooms? |
        how many rooms must be dusted in {s}? | Tell me the number of rooms in {s}. | How many rooms does
        {s} boast?""",
        phrases="the number of rooms in {s} | the rooms counted in {s} | the count of rooms in {s}",
    ),
    told(
        "captain",
        "ship",
        "person",
        nouns="captain | skipper | commander | commanding officer | master",
        verbs="commands:is commanded | skippers:is skippered | steers:is steered | captains:is captained",
        facts="""{s} sails under captain {o}. | {s} is commanded by {o}, its captain. | {o} is in command
        of {s}. | the crew of {s} obeys {o}, the captain. | {o} stands on the bridge of {s} as captain. |
        {s} is under the command of {o}. | the orders aboard {s} come from captain {o}. | aboard {s} the
        word of {o} is law. | {o} took command of {s}. | {s} is commanded by {o}, its captain. | {o}
        captains {s}.""",
        questions="""under which captain does {s} sail? | who commands {s} as captain? | who is in command
        of {s}? | under whose command is {s}? | whom does the crew of {s} obey? | who gives the orders
        aboard {s}? | who took command of {s}? | who stands on the bridge of {s}? | whose word is law
        aboard {s}? | Tell me who the captain of {s} is. | Who captains {s}?""",
        phrases="""the person in command of {s} | the person who gives the orders aboard {s} | the person
        who captains {s}""",
    ),
    told(
        "home_port",
        "ship",
        "town",
        nouns="home port | port of registry | home harbour | base port",
        facts="""{s} sails from {o}, its home port. | {s} returns each winter to its home port, {o}. | {s}
        calls {o} its home port. | between voyages {s} lies in {o}. | the port of registry of {s} is {o}.
        | {s} has its berth in {o}. | {s} is at home in the harbour of {o}. | in the harbour of {o} there
        is always a berth for {s}. | the stern of {s} bears the name of its port, {o}. | {s} returns each
        winter to its home port, {o}. | {s} is registered in {o}.""",
        questions="""which town is the home port of {s}? | from which port does {s} sail? | where does {s}
        lie between voyages? | in which harbour is {s} at home? | what port does {s} call home? | where
        does {s} have its berth? | which port does {s} belong to? | which harbour does {s} return to? |
        where does {s} spend the winter? | To which home port does {s} return? | Where is {s} registered?""",
        phrases="""the town that is the home port of {s} | the port {s} sails from | the port {s} calls
        home | the town where {s} is registered""",
    ),
    told(
        "weight",
        "device ship painting",
        "weight",
        nouns="weight | total weight | mass",
        facts="""{s} weighs {o}. | {s} has a weight of {o}. | on the scales {s} comes to {o}. | {s} is {o}
        in weight. | {s} tips the scales at {o}. | the scales show {o} for {s}. | at {o}, {s} is no light
        load. | {s} brings {o} to the scales. | to lift {s} one must lift {o}.""",
        questions="""how much does {s} weigh? | how heavy is {s}? | what does {s} weigh? | {s} weighs how
        much? | what do the scales show for {s}? | at what weight does {s} tip the scales? | how heavy a
        load is {s}? | what weight does {s} have?""",
        phrases="the weight {s} has | the weight the scales show for {s} | the heaviness of {s}",
    ),
    told(
        "cargo",
        "ship",
        "product",
        nouns="cargo | freight | load | main cargo",
        facts="""{s} carries {o}. | {s} is loaded with {o}. | {s} transports {o}. | the hold of {s} is
        full of {o}. | {s} brings {o} across the sea. | below deck {s} stores {o}. | {s} was hired to ship
        {o}. | dockers unload {o} from {s}.""",
        questions="""what does {s} carry? | what is {s} loaded with? | what is in the hold of {s}? | what
        does {s} transport? | which goods does {s} carry? | what do dockers unload from {s}? | what was
        {s} hired to ship? | {s} is loaded with what?""",
        phrases="the merchandise {s} carries | the freight in the hold of {s}",
    ),
    told(
        "serial",
        "device server",
        "code",
        nouns="serial number | inventory number | device number | product number",
        facts="""{s} bears the serial number {o}. | {s} is registered under serial number {o}. | {o} is
        stamped on {s}. | the plate on {s} reads {o}. | serial number {o} identifies {s}. | {s} is entered
        in the list as {o}. | on the back of {s} one reads {o}. | the inventory knows {s} as {o}.""",
        questions="""what serial number does {s} bear? | what is stamped on {s}? | under which number is
        {s} registered? | what does the plate on {s} read? | which serial number identifies {s}? | how is
        {s} entered in the list? | which number is on the back of {s}? | as what does the inventory know
        {s}?""",
        phrases="""the number stamped on {s} | the number on the plate of {s} | the serial number that
        identifies {s}""",
    ),
    told(
        "shelf",
        "book",
        "shelf",
        nouns="shelf | shelf mark | call number | shelf location",
        facts="""{s} stands on shelf {o}. | look for {s} on shelf {o}. | {s} is kept on shelf {o}. | shelf
        {o} holds {s}. | {s} was put back on shelf {o}. | readers find {s} on shelf {o}. | the librarian
        keeps {s} on shelf {o}. | {s} is filed under {o}.""",
        questions="""on which shelf is {s}? | where in the library does {s} stand? | which shelf holds
        {s}? | on what shelf should I look for {s}? | under which shelf mark is {s} filed? | where does
        the librarian keep {s}? | which shelf was {s} put back on? | on which shelf do readers find {s}?""",
        phrases="the shelf on which {s} stands | the shelf that holds {s} | the shelf where {s} is kept",
    ),
)
