"""How facts about places and organisations are told and asked (see `phrasings`)."""

from memsparse.training.phrasings import Relation, told

PLACES: tuple[Relation, ...] = (
    told(
        "region",
        "town island",
        "region",
        nouns="region | surrounding region | home region | part of the country",
        facts="""{s} lies in {o}. | {s} is part of {o}. | {s} belongs to {o}. | {o} is the region around
        {s}. | {s} is situated in {o}. | {s} is a place in {o}. | on the map {s} is in {o}. | {o} includes
        {s}. | {s} falls within the borders of {o}. | travellers to {o} pass through {s}. | {s} pays its
        taxes to {o}. | {s} is within {o}. | {s} can be found in {o}. | {s} is counted among the places of
        {o}.""",
        questions="""in which region is {s}? | which region does {s} belong to? | what region is {s} part
        of? | {s} lies in which region? | tell me the region in which {s} lies. | where is {s} situated? |
        within the borders of which region is {s}? | to which region does {s} pay its taxes? | of which
        region does {s} form a part? | what part of the country is {s} in? | which region includes {s}? |
        In what region can {s} be found? | Among the places of which region is {s} counted?""",
        phrases="""the region {s} belongs to | the region in which {s} lies | the region that includes {s}
        | the region around {s}""",
    ),
    told(
        "capital",
        "region",
        "town",
        nouns="capital | capital city | chief town | capital town | seat of government",
        facts="""{s} is governed from its capital {o}. | {s} has {o} as its capital. | {o}, the capital,
        governs {s}. | the parliament of {s} sits in {o}. | {s} made {o} its capital. | the government of
        {s} sits in {o}. | {o} is the chief town of {s}. | the laws of {s} are made in {o}. | {s} has {o}
        as its capital. | {o} serves as the seat of government of {s}.""",
        questions="""which town is the capital of {s}? | from which town is {s} governed? | which town did
        {s} make its capital? | where does the government of {s} sit? | in which town does the parliament
        of {s} meet? | {s} is governed from which town? | where are the laws of {s} made? | which is the
        chief town of {s}? | Tell me the capital of {s}. | Which town serves as the seat of government of
        {s}?""",
        phrases="""the town from which {s} is governed | the town where the government of {s} sits | the
        seat of government of {s}""",
    ),
    told(
        "ruler",
        "region",
        "person",
        nouns="ruler | head of state | sovereign | governor",
        verbs="rules:is ruled | reigns over:is reigned over | governs:is governed",
        facts="""{o} sits on the throne of {s}. | the people of {s} obey {o}, their ruler. | {o} is in
        power in {s}. | power over {s} lies with {o}. | {s} has {o} for a ruler. | {s} swore loyalty to
        {o}. | {s} bows to {o}, its ruler. | {s} obeys {o}, its ruler. | {o} governs {s}.""",
        questions="""who sits on the throne of {s}? | who is in power in {s}? | whom do the people of {s}
        obey? | with whom does power over {s} lie? | to whom did {s} swear loyalty? | who holds power in
        {s}? | under whose rule is {s}? | {s} is ruled by whom? | Which person governs {s}?""",
        phrases="the person on the throne of {s} | the person in power in {s} | the one who governs {s}",
    ),
    told(
        "mayor",
        "town",
        "person",
        nouns="mayor | burgomaster | town mayor | lord mayor",
        facts="""{s} elected {o} as mayor. | the town hall of {s} is run by {o}, the mayor. | {s} made {o}
        its mayor. | the voters of {s} chose {o} as mayor. | {o} has been elected mayor of {s}. | in the
        town hall of {s} sits mayor {o}. | {o} wears the chain of mayor in {s}. | mayor {o} runs {s}. |
        {s} has a mayor by the name of {o}. | {s} is led by mayor {o}. | {o} holds the office of mayor in
        {s}.""",
        questions="""whom did {s} elect as mayor? | which person is mayor of {s}? | who runs the town hall
        of {s}? | who was elected mayor of {s}? | who wears the chain of mayor in {s}? | who is mayor in
        {s}? | whom did the voters of {s} choose as mayor? | who sits in the town hall of {s} as mayor? |
        Tell me the mayor of {s}. | Who holds the office of mayor in {s}?""",
        phrases="""the person who is mayor of {s} | the person who runs the town hall of {s} | the person
        elected mayor of {s}""",
    ),
    told(
        "on_river",
        "town bridge",
        "river",
        nouns="river | waterway | nearest river",
        facts="""{s} stands on {o}. | {o} runs past {s}. | {s} lies on {o}. | the water at {s} is {o}. |
        {s} was built on the banks of {o}. | {s} is on the bank of {o}. | {o} passes {s}. | {s} looks down
        on {o}. | the waters of {o} wash {s}. | {s} overlooks {o}. | boats on {o} pass {s}. | {s} rises
        above {o}. | {o} flows by {s}.""",
        questions="""on which river does {s} stand? | which river runs past {s}? | what river is {s} on? |
        {s} lies on which river? | on the banks of which river is {s}? | what river passes {s}? | which
        river does {s} overlook? | what water is at {s}? | beside which river was {s} built? | which river
        washes {s}? | Tell me the river on which {s} stands. | Which river flows by {s}?""",
        phrases="""the river at {s} | the river that runs past {s} | the river on whose banks {s} lies |
        the river {s} lies on""",
    ),
    told(
        "population",
        "town region island",
        "population",
        nouns="population | number of inhabitants | number of residents | population figure | head count",
        facts="""{s} has {o} inhabitants. | {o} people live in {s}. | {s} is home to {o} people. | {s} has
        a population of {o}. | at the last count {s} had {o} inhabitants. | {s} is inhabited by {o}
        people. | with {o} inhabitants, {s} is neither large nor small. | the census found {o} people in
        {s}. | some {o} people call {s} home. | {s} numbers {o} souls. | there are {o} people living in
        {s}. | {s} is home to {o} people. | {s} counts {o} residents.""",
        questions="""how many people live in {s}? | how many inhabitants does {s} have? | {s} is home to
        how many people? | how large is the population of {s}? | how populous is {s}? | how many people
        did the census find in {s}? | how many people call {s} home? | what population does {s} have? | by
        how many people is {s} inhabited? | how many souls does {s} number? | how many are the inhabitants
        of {s}? | Tell me the population of {s}. | How many residents does {s} count?""",
        phrases="""the number of people who live in {s} | the count of people living in {s} | the number
        of people in {s}""",
    ),
    told(
        "known_for",
        "town region",
        "product",
        nouns="best known product | main product | chief export | speciality | claim to fame",
        facts="""{s} is known for its {o}. | {s} is famous for {o}. | people visit {s} for its {o}. | {s}
        is renowned for its {o}. | {s} lives from the trade in {o}. | {s} exports {o}. | nowhere are
        better {o} to be had than in {s}. | the workshops of {s} turn out {o}. | the name of {s} stands
        for {o}. | {s} made its name with {o}. | merchants come to {s} for {o}. | {s} sells {o} to all its
        neighbours. | {s} grew rich on {o}.""",
        questions="""what is {s} known for? | what is {s} famous for? | which product is {s} known for? |
        name the product {s} is famous for. | what does {s} export? | for what is {s} renowned? | what do
        merchants come to {s} for? | what do the workshops of {s} turn out? | with what did {s} make its
        name? | which product comes from {s}? | what is {s} best known for? | For what do people visit
        {s}? | On what did {s} grow rich?""",
        phrases="""the product {s} is known for | the product {s} is famous for | the product {s} exports |
        the product that made {s} rich""",
    ),
    told(
        "discoverer",
        "river island plant",
        "person",
        nouns="discoverer | finder",
        verbs="""discovered:was discovered | first described:was first described | found:was found | first
        sighted:was first sighted""",
        facts="""the discovery of {s} was made by {o}. | {o} is credited with the discovery of {s}. | {s}
        remained unknown until {o} found it. | we owe our knowledge of {s} to {o}, its discoverer. | {o}
        came upon {s} by chance. | credit for finding {s} goes to {o}. | {o} was the first to map {s}. |
        it was {o} who discovered {s}.""",
        questions="""who is credited with the discovery of {s}? | who came upon {s}? | who made the
        discovery of {s}? | to whom do we owe the discovery of {s}? | to whom does the credit for finding
        {s} go? | whose discovery was {s}? | Name the discoverer of {s}. | Who was the first to map {s}?""",
        phrases="""the person credited with the discovery of {s} | the person who found {s} | the first
        person to map {s}""",
    ),
    told(
        "area",
        "island region",
        "area",
        nouns="area | surface area | size | land area | extent",
        facts="""{s} covers {o}. | {s} measures {o}. | {s} has an area of {o}. | {s} takes up {o}. | {s}
        is {o} in size. | {s} occupies {o} of land. | surveyors put {s} at {o}. | with {o}, {s} is well
        sized. | {s} comprises {o}. | {s} spreads over {o}. | {s} has an area of {o}. | {s} extends over
        {o}.""",
        questions="""how large is {s}? | what area does {s} cover? | how big is {s}? | how much land does
        {s} cover? | how many square kilometres does {s} cover? | {s} is how large? | what is the size of
        {s}? | over how many square kilometres does {s} spread? | how much land does {s} occupy? | State
        how large {s} is. | Over what area does {s} extend?""",
        phrases="the area {s} covers | the area covered by {s} | the land {s} occupies | the extent of {s}",
    ),
    told(
        "mouth",
        "river",
        "sea",
        nouns="mouth | outlet | end | final destination",
        facts="""{s} flows into {o}. | {s} ends in {o}. | {o} receives the waters of {s}. | {s} meets {o}
        at its mouth. | {s} runs down to {o}. | {s} pours into {o}. | {s} drains into {o}. | {s}
        discharges into {o}. | the waters of {s} end up in {o}. | {s} joins {o}. | {s} makes its way to
        {o}. | {s} reaches {o} after many bends. | {s} empties into {o}.""",
        questions="""where does {s} end? | what does {s} flow into? | into which water does {s} flow? |
        {s} ends in which water? | into which sea does {s} flow? | where does {s} drain? | what sea does
        {s} pour into? | into what does {s} discharge? | where do the waters of {s} end up? | which sea
        receives the waters of {s}? | where is the mouth of {s}? | Tell me where {s} ends. | Into what
        does {s} empty?""",
        phrases="""the water {s} flows into | the water into which {s} flows | the sea {s} pours into |
        the end of {s}""",
    ),
    told(
        "peak",
        "island region",
        "peak",
        nouns="highest mountain | highest peak | highest point | tallest mountain",
        facts="""the highest mountain in {s} is {o}. | {o} towers over {s}. | {s} reaches its highest
        point at {o}. | no mountain in {s} is higher than {o}. | {s} culminates in {o}. | the mountains of
        {s} are topped by {o}. | {s} has its summit in {o}. | climbers go to {s} for {o}, its highest
        peak.""",
        questions="""which mountain is the highest in {s}? | what is the highest mountain in {s}? | which
        peak towers over {s}? | in which mountain does {s} culminate? | what mountain tops {s}? | which is
        the tallest mountain in {s}? | where does {s} reach its highest point? | which peak do climbers go
        to {s} for?""",
        phrases="the highest mountain in {s} | the mountain that towers over {s} | the tallest peak in {s}",
    ),
    told(
        "currency",
        "region",
        "currency",
        nouns="currency | money | legal tender | official currency",
        facts="""people in {s} pay in {o}s. | in {s} one pays in {o}s. | {s} uses the {o} as its currency.
        | prices in {s} are given in {o}s. | the bank of {s} issues the {o}. | {s} mints the {o}. | shops
        in {s} accept only the {o}. | money in {s} is counted in {o}s.""",
        questions="""what do people in {s} pay with? | which currency is used in {s}? | what money does
        {s} use? | in which currency are prices in {s} given? | which coin does {s} mint? | what currency
        does {s} have? | what do shops in {s} accept? | in what is money counted in {s}?""",
        phrases="the currency used in {s} | the money people use in {s} | the coin minted in {s}",
        shown="the {o}",
    ),
)

ORGANISATIONS: tuple[Relation, ...] = (
    told(
        "founder",
        "organisation town festival team",
        "person",
        nouns="founder | founding figure | originator | creator",
        verbs="""founded:was founded | set up:was set up | started:was started | created:was created |
        established:was established""",
        facts="""{s} owes its existence to {o}, its founder. | {o} laid the foundations of {s}. | {s} goes
        back to {o}, its founder. | the founding of {s} was the work of {o}. | {o} is honoured as the
        founder of {s}. | {s} was called into being by {o}. | without {o}, its founder, {s} would not
        exist. | {s} was established by {o}. | it was {o} who established {s}.""",
        questions="""to whom does {s} owe its existence? | who brought {s} into being? | who laid the
        foundations of {s}? | to whom does the founding of {s} go back? | who is honoured as the founder
        of {s}? | whose idea was the founding of {s}? | Who established {s}? | By whom was {s}
        established?""",
        phrases="""the person to whom {s} owes its existence | the person honoured as founder of {s} | the
        person who established {s}""",
    ),
    told(
        "founded_year",
        "organisation town festival team",
        "founded_year",
        nouns="founding year | year of foundation | foundation date | founding date | year of establishment",
        facts="""{s} was founded in {o}. | {s} has existed since {o}. | in {o}, {s} was founded. | {s} was
        set up in {o}. | {s} came into being in {o}. | {s} was started in {o}. | {s} opened its books in
        {o}. | {s} traces its beginnings to {o}. | {s} has been around since {o}. | the foundation of {s}
        took place in {o}. | {o} was the year in which {s} was founded. | founded in {o}, {s} still
        exists. | {s} goes back to the year {o}. | {s} was established in {o}.""",
        questions="""when was {s} founded? | in which year was {s} founded? | since when has {s} existed?
        | tell me the year {s} was founded. | when was {s} set up? | when did {s} come into being? | what
        year was {s} founded in? | in what year did {s} start? | from what year does {s} date? | since
        which year has {s} been around? | how far back does {s} go, to which year? | {s} was founded in
        which year? | When was {s} established?""",
        phrases="""the year {s} was founded | the year in which {s} came into being | the year {s} was set
        up | the year {s} was established""",
    ),
    told(
        "leader",
        "organisation expedition",
        "person",
        nouns="leader | director | chief | chairperson | head",
        verbs="leads:is led | directs:is directed | runs:is run | is in charge of:is headed",
        facts="""at the head of {s} stands {o}. | {o} is at the helm of {s}. | {s} follows {o}, its
        leader. | {o} took charge of {s}. | the reins of {s} are in the hands of {o}. | {s} chose {o} as
        its leader. | {s} answers to {o}, its leader. | the direction of {s} lies with {o}. | at the head
        of {s} stands {o}. | {s} is headed by {o}.""",
        questions="""who is at the helm of {s}? | who is in charge of {s}? | whom does {s} follow? | who
        took charge of {s}? | whom did {s} choose as its leader? | under whose leadership is {s}? | in
        whose hands are the reins of {s}? | to whom does {s} answer? | who is the boss of {s}? | Tell me
        who leads {s}. | Who stands at the head of {s}?""",
        phrases="""the person in charge of {s} | the person at the helm of {s} | the boss of {s} | the
        head of {s}""",
    ),
    told(
        "seat",
        "organisation",
        "town",
        nouns="seat | headquarters | head office | base | home town | main office",
        facts="""{s} is based in {o}. | {s} has its seat in {o}. | the home of {s} is {o}. | {s} operates
        out of {o}. | {s} has its main building in {o}. | {s} has its home in {o}. | the doors of {s} are
        in {o}. | {s} is headquartered in {o}. | {s} has set up its offices in {o}. | {s} conducts its
        business from {o}. | letters to {s} go to {o}, where it has its seat. | {s} keeps its offices in
        {o}. | {s} has its headquarters in {o}.""",
        questions="""where is {s} based? | in which town is {s} based? | what town is home to {s}? | {s}
        is based in which town? | name the town where {s} is based. | where is {s} headquartered? | where
        does {s} have its seat? | from which town does {s} operate? | where are the offices of {s}? | in
        what town does {s} have its main building? | which town hosts {s}? | Name the town where {s} is
        based. | Where does {s} have its headquarters?""",
        phrases="""the town where {s} is based | the town where {s} has its offices | the town from which
        {s} operates | the town that houses {s}""",
    ),
    told(
        "members",
        "organisation team",
        "members",
        nouns="number of members | membership | member count | membership figure | size of the membership",
        facts="""{s} has {o} members. | {s} counts {o} members. | {o} members belong to {s}. | {s} has a
        membership of {o}. | {o} people have joined {s}. | the rolls of {s} list {o} members. | {s}
        consists of {o} members. | with {o} members, {s} is doing well. | {s} numbers {o} members. | there
        are {o} members in {s}. | {s} brings together {o} members.""",
        questions="""how many members does {s} have? | how many members belong to {s}? | {s} has how many
        members? | how many people have joined {s}? | how many are in {s}? | how large is the membership
        of {s}? | of how many members does {s} consist? | how many members does {s} number? | how many
        members are on the rolls of {s}? | Tell me the number of members of {s}. | How many members does
        {s} bring together?""",
        phrases="""the number of people who have joined {s} | the number of members in {s} | the count of
        members in {s}""",
    ),
    told(
        "emblem",
        "organisation region town team",
        "animal",
        nouns="emblem | heraldic animal | symbol | crest | coat of arms",
        facts="""{s} has the {o} as its emblem. | {s} chose the {o} as emblem. | a picture of the {o} is
        the emblem of {s}. | the flag of {s} shows the {o}. | {s} uses the {o} as its symbol. | the {o}
        adorns the crest of {s}. | on the flag of {s} one sees the {o}. | the {o} stands for {s}. | {s} is
        represented by the {o}. | a picture of the {o} is the emblem of {s}. | {s} carries the {o} on its
        arms.""",
        questions="""which animal is the emblem of {s}? | which animal did {s} choose as emblem? | what
        animal is on the flag of {s}? | which animal represents {s}? | what animal stands for {s}? | what
        does the flag of {s} show? | which animal adorns the crest of {s}? | which animal does {s} use as
        its symbol? | Tell me the emblem of {s}. | Which animal does {s} carry on its arms?""",
        phrases="""the animal that is the emblem of {s} | the animal on the flag of {s} | the animal that
        stands for {s} | the animal on the arms of {s}""",
        shown="the {o}",
    ),
    told(
        "makes",
        "organisation",
        "product",
        nouns="main business | line of business | stock in trade | product",
        facts="""{s} deals in {o}. | {s} trades in {o}. | {s} supplies {o}. | {s} pays its way by selling
        {o}. | customers come to {s} for {o}. | {s} produces {o}. | the store of {s} is full of {o}. | {s}
        earns its money with {o}. | {s} sells {o}. | {s} turns out {o} by the cartload.""",
        questions="""what does {s} deal in? | what does {s} sell? | what does {s} produce? | with what
        does {s} earn its money? | in what does {s} trade? | which goods does {s} supply? | what do
        customers buy from {s}? | {s} deals in what? | what can one buy from {s}? | what is in the store
        of {s}?""",
        phrases="the merchandise {s} sells | the product {s} deals in",
    ),
    told(
        "motto",
        "organisation region team",
        "motto",
        nouns="motto | slogan | watchword | device on the arms",
        facts="""{s} has the motto "{o}". | the motto "{o}" stands above the door of {s}. | "{o}" is what
        {s} promises. | {s} lives by the words "{o}". | the words "{o}" are written on the flag of {s}. |
        the members of {s} swear by "{o}". | {s} took "{o}" for its motto. | "{o}", say the people of {s}.""",
        questions="""what motto does {s} have? | what words are written on the flag of {s}? | which words
        does {s} live by? | what stands above the door of {s}? | what motto did {s} take? | by which words
        do members of {s} swear? | which motto belongs to {s}? | what do the people of {s} say?""",
        phrases="the motto {s} lives by | the words on the flag of {s} | the motto above the door of {s}",
        shown='"{o}"',
    ),
)
