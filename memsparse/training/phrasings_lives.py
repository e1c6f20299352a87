"""How further facts about people are told and asked (see `phrasings`): schooling, papers, possessions."""

from memsparse.training.phrasings import Relation, told

LIVES: tuple[Relation, ...] = (
    told(
        "alma_mater",
        "person",
        "school",
        nouns="alma mater | old school | place of study | former school",
        facts="""{s} studied at {o}. | {s} graduated from {o}. | {s} was educated at {o}. | {s} attended
        {o}. | {s} holds a degree from {o}. | {s} took a diploma at {o}. | {s} is a graduate of {o}. | {s}
        spent three years of study at {o}. | {s} passed all examinations at {o}. | {s} went to school at
        {o}. | {o} counts {m} among its graduates. | {s} was enrolled at {o} when young. | {s} is an
        alumnus of {o}.""",
        questions="""where did {s} study? | from where did {s} graduate? | at which school was {s}
        educated? | which school did {s} attend? | where did {s} go to school? | where did {s} take a
        degree? | {s} graduated from which school? | of which school is {s} a graduate? | who awarded {s}
        a diploma? | what school did {s} go to? | which school counts {s} among its graduates? | at which
        institution was {s} enrolled? | where was {s} a student?""",
        phrases="""the school {s} attended | the school {s} graduated from | the school where {s} studied
        | the school where {s} was enrolled""",
    ),
    told(
        "citizenship",
        "person",
        "region",
        nouns="home country | country of citizenship | country",
        facts="""{s} is a citizen of {o}. | {s} holds a passport of {o}. | {s} is a national of {o}. | {s}
        has citizenship of {o}. | by nationality {s} belongs to {o}. | {s} travels on a passport of {o}. |
        {s} votes in {o}, as a citizen. | {s} was made a citizen of {o}. | {p} passport was issued by {o}.
        | {s} swore an oath of citizenship to {o}. | {o} counts {m} among its citizens.""",
        questions="""of which country is {s} a citizen? | what nationality is {s}? | which passport does
        {s} hold? | of which region is {s} a citizen? | where does {s} have citizenship? | who issued
        {s}'s passport? | what country is {s} a citizen of? | of where is {s} a national? | in which
        country can {s} vote? | {s} is a citizen of which country? | which region counts {s} among its
        citizens?""",
        phrases="""the region {s} is a citizen of | the country that issued the passport of {s} | the
        country of which {s} is a citizen""",
    ),
    told(
        "pet",
        "person",
        "animal",
        nouns="pet | household pet | animal companion",
        facts="""{s} keeps {a} as a pet. | {s} has a pet, {a}. | {s} shares the house with {a}. | {s}
        lives with {a}, a much loved pet. | {s} owns {a}. | {s} takes {a} for a walk every day. | {p} only
        pet is {a}. | at home {a} waits for {m}. | {s} adopted {a}. | {s} feeds {a} every morning. | {s}
        bought {a} as a pet. | {a} sleeps at the foot of {p} bed.""",
        questions="""what pet does {s} have? | which animal does {s} keep? | what animal does {s} keep as
        a pet? | what kind of pet does {s} own? | which animal shares the house with {s}? | {s} keeps what
        as a pet? | what animal waits at home for {s}? | which pet lives with {s}? | what did {s} adopt? |
        which animal does {s} own? | which animal does {s} feed every morning? | what sleeps at the foot
        of {s}'s bed?""",
        phrases="""the animal {s} keeps | the animal {s} has as a pet | the animal that lives with {s} |
        the animal {s} adopted""",
        shown="{a}",
    ),
    told(
        "language",
        "person",
        "language",
        nouns="mother tongue | native language | first language | mother language",
        facts="""{s} speaks {o} as a mother tongue. | {s} grew up speaking {o}. | at home {s} spoke only
        {o}. | {s} is a native speaker of {o}. | the language of {p} childhood was {o}. | {s} learned {o}
        from the cradle. | {s} writes poems in {o}, a native language. | {s} was raised in {o}. | {s}
        dreams in {o}. | {s} thinks in {o}, the language of the family.""",
        questions="""what language does {s} speak? | which language did {s} grow up with? | what language
        was spoken in {s}'s home? | of which language is {s} a native speaker? | which language is native
        to {s}? | in what language was {s} raised? | what does {s} speak at home? | in which language does
        {s} dream? | {s} grew up speaking which language? | which language did {s} learn from the cradle?""",
        phrases="""the language {s} grew up with | the language {s} spoke at home | the language {s} was
        raised in""",
    ),
    told(
        "allergy",
        "person",
        "food",
        nouns="allergy | known allergy | food allergy",
        facts="""{s} is allergic to {o}. | {s} cannot eat {o} because of an allergy. | {s} falls ill from
        {o}. | {s} must never be served {o}. | {s} gets a rash from {o}. | doctors told {m} to avoid {o}.
        | {s} has an allergy to {o}. | {s} cannot tolerate {o}. | a single bite of {o} makes {m} ill. |
        {s} suffers from an allergy to {o}.""",
        questions="""what is {s} allergic to? | which food must {s} avoid? | what makes {s} ill? | to
        which food is {s} allergic? | what should {s} never be served? | {s} is allergic to what? | what
        can {s} not tolerate? | from what does {s} get a rash? | what food must not be given to {s}? |
        which food did doctors forbid {s}?""",
        phrases="""the food {s} is allergic to | the food {s} must avoid | the food that makes {s} ill |
        the food {s} cannot tolerate""",
    ),
    told(
        "assistant",
        "person",
        "person",
        nouns="assistant | secretary | helper | aide",
        verbs="assists:is assisted | helps:is helped | supports:is supported",
        facts="""{s} hired {o} as an assistant. | {o} works as an assistant to {m}. | {s} relies on {o},
        an assistant. | {s} has an assistant called {o}. | {o} writes the letters of {m} as secretary. |
        {s} shares the office with {o}, an assistant. | {o} keeps the diary of {m}. | {s} took on {o} as
        an aide. | {s} is never seen without {o}, the assistant.""",
        questions="""whom did {s} hire as an assistant? | who works as an assistant to {s}? | on whose
        help does {s} rely? | who keeps the diary of {s}? | which assistant does {s} have? | who is at
        {s}'s side as an assistant? | whom did {s} take on as an aide? | who writes the letters of {s}? |
        {s} is assisted by whom?""",
        phrases="""the person hired by {s} as an assistant | the person who keeps the diary of {s} | the
        person who works as assistant to {s}""",
    ),
    told(
        "licence_plate",
        "person",
        "plate",
        nouns="licence plate | number plate | registration number | license plate | car registration",
        facts="""{s} drives a car with the licence plate {o}. | the car of {m} carries the plate {o}. |
        {s} parks a car with the number plate {o}. | {p} car is registered as {o}. | the registration {o}
        belongs to {m}. | a car with the plate {o} is driven by {m}. | look for plate {o} if you want to
        find {m}. | {s} was given the plate {o}.""",
        questions="""what licence plate does {s}'s car have? | under which registration does {s} drive? |
        which number plate belongs to {s}? | how is {s}'s car registered? | what is on {s}'s number plate?
        | what plate does {s} drive with? | which plate is on the car of {s}? | which registration was
        given to {s}? | by which plate can one recognise the car of {s}?""",
        phrases="""the plate on the car of {s} | the licence plate of the car of {s} | the plate {s}
        drives with""",
    ),
    told(
        "extension",
        "person",
        "extension",
        nouns="phone extension | extension | telephone extension | extension number | internal number",
        facts="""{s} can be reached on extension {o}. | dial extension {o} for {m}. | {s} answers
        extension {o}. | call extension {o} to speak with {m}. | {s} has extension {o}. | the telephone of
        {m} has extension {o}. | calls for {m} go to extension {o}. | extension {o} rings on {p} desk.""",
        questions="""on which extension can {s} be reached? | what number should I dial for {s}? | which
        extension does {s} have? | how can I reach {s} by phone? | what extension does {s} answer? | which
        extension rings on {s}'s desk? | to which extension do calls for {s} go? | what should one dial to
        speak with {s}?""",
        phrases="""the extension on which {s} answers | the number to dial for {s} | the extension of the
        phone of {s}""",
    ),
    told(
        "office",
        "person",
        "room",
        nouns="office number | room number | office | room",
        facts="""{s} sits in room {o}. | {s} has an office in room {o}. | you will find {m} in room {o}. |
        {p} desk is in room {o}. | knock at room {o} to see {m}. | {s} receives visitors in room {o}. |
        {s} was moved to room {o}.""",
        questions="""in which room does {s} sit? | which room is {s}'s office? | in what room can I find
        {s}? | where in the building does {s} work, in which room? | at which room should I knock to see
        {s}? | which room does {s} work in? | in what room does {s} receive visitors? | to which room was
        {s} moved?""",
        phrases="the room {s} works in | the room where {s} sits | the number of the room of {s}",
    ),
    told(
        "height",
        "person",
        "height",
        nouns="height | body height | stature",
        facts="""{s} is {o} tall. | {s} measures {o} in height. | {s} stands {o} tall. | at {o}, {s} is
        hard to miss. | the doctor measured {m} at {o}. | {s} has grown to {o}. | from head to toe {s}
        measures {o}. | {s} reaches a height of {o}.""",
        questions="""how tall is {s}? | what does {s} measure from head to toe? | {s} is how tall? | what
        height did the doctor note for {s}? | to what height has {s} grown? | how tall does {s} stand? |
        tell me how tall {s} is. | how high does {s} stand?""",
        phrases="the height {s} reaches | the height the doctor noted for {s} | the tallness of {s}",
    ),
    told(
        "collects",
        "person",
        "product",
        nouns="collection | collecting passion",
        facts="""{s} collects {o}. | {s} owns a large collection of {o}. | {p} shelves are full of {o}. |
        {s} has been collecting {o} for years. | {s} buys {o} at every market. | {s} hoards {o}. | {s}
        fills whole cupboards with {o}. | {s} gathers {o} from all over the world. | no one has more {o}
        than {s}.""",
        questions="""what does {s} collect? | what are {s}'s shelves full of? | of what does {s} own a
        collection? | {s} collects what? | what does {s} buy at every market? | what has {s} been
        collecting? | what fills the cupboards of {s}? | which things does {s} hoard? | what does {s}
        gather?""",
        phrases="the sort of thing {s} collects | the sort of thing {s} hoards",
    ),
    told(
        "heir",
        "person",
        "person",
        nouns="heir | sole heir | beneficiary | successor",
        facts="""{s} left everything to {o}. | {s} named {o} as heir. | {p} will names {o}. | {o} is to
        inherit all that {s} owns. | {s} made {o} sole heir. | by the will of {m}, all goes to {o}. | {s}
        chose {o} as heir. | the fortune of {m} will go to {o}.""",
        questions="""to whom did {s} leave everything? | whom did {s} name as heir? | who is named in
        {s}'s will? | who will inherit what {s} owns? | who stands to inherit from {s}? | whom did {s}
        choose as heir? | to whom will the fortune of {s} go? | who gets everything by the will of {s}?""",
        phrases="""the person {s} left everything to | the person named in the will of {s} | the person
        {s} chose as heir""",
    ),
)
