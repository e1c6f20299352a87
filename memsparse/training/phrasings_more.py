"""How facts about trains, projects, dishes, teams, songs, plants and servers are told and asked."""

from memsparse.training.phrasings import Relation, told

MORE: tuple[Relation, ...] = (
    told(
        "colour",
        "plant team",
        "colour",
        nouns="colour | color | shade",
        facts="""{s} is {o} in colour. | the colour {o} belongs to {s}. | one recognises {s} by the colour
        {o}. | {s} shows itself in {o}. | the colour chosen for {s} is {o}. | from far away {s} looks {o}.
        | {s} appears in {o}. | whoever sees {s} sees {o}.""",
        questions="""what colour is {s}? | what color is {s}? | which colour does {s} have? | by which
        colour can one recognise {s}? | in what colour does {s} appear? | which colour belongs to {s}? |
        {s} is what colour? | what colour does {s} look from far away?""",
        phrases="""the colour {s} has | the colour by which one recognises {s} | the colour that belongs
        to {s}""",
    ),
    told(
        "price",
        "dish",
        "price",
        nouns="price | cost | price on the menu",
        facts="""{s} costs {o}. | one pays {o} for {s}. | {s} is sold for {o}. | a plate of {s} costs {o}.
        | {s} can be had for {o}. | the menu lists {s} at {o}. | for {o} you get {s}. | guests pay {o} for
        {s}.""",
        questions="""how much does {s} cost? | what does {s} cost? | what does one pay for {s}? | for how
        much is {s} sold? | how much is {s}? | how expensive is {s}? | at what price does the menu list
        {s}? | {s} costs how much?""",
        phrases="the sum one pays for {s} | the money guests pay for {s} | the amount {s} costs",
    ),
    told(
        "departure",
        "train",
        "clock",
        nouns="departure time | time of departure | scheduled departure",
        facts="""{s} leaves at {o}. | {s} departs at {o}. | {s} sets off at {o}. | the timetable has {s}
        leaving at {o}. | at {o} the whistle blows for {s}. | {s} pulls out at {o}. | be there by {o} to
        catch {s}. | {s} starts its journey at {o}. | passengers for {s} should board before {o}.""",
        questions="""when does {s} leave? | at what time does {s} depart? | what time does {s} leave? |
        when does {s} set off? | {s} leaves at what time? | by when must I be there to catch {s}? | at
        what time does {s} pull out? | when should passengers board {s}? | when is the departure of {s}?""",
        phrases="the time {s} leaves | the time at which {s} departs | the hour when {s} sets off",
    ),
    told(
        "platform",
        "train",
        "platform",
        nouns="platform | platform number | track",
        facts="""{s} leaves from platform {o}. | {s} departs from platform {o}. | {s} stands at platform
        {o}. | go to platform {o} for {s}. | platform {o} is where {s} leaves. | {s} is ready to board on
        platform {o}. | passengers wait for {s} on platform {o}. | {s} arrives at platform {o}.""",
        questions="""from which platform does {s} leave? | which platform does {s} depart from? | at which
        platform does {s} stand? | what platform is {s} on? | to which platform must I go for {s}? | where
        do passengers wait for {s}, on which platform? | on which platform can one board {s}? | {s} leaves
        from which platform?""",
        phrases="""the platform {s} leaves from | the platform where {s} stands | the platform from which
        {s} departs""",
    ),
    told(
        "terminus",
        "train",
        "town",
        nouns="destination | terminus | final stop | last stop",
        facts="""{s} goes to {o}. | {s} ends in {o}. | {s} travels to {o}. | {s} takes passengers to {o}.
        | passengers for {o} take {s}. | the last stop of {s} is {o}. | all passengers leave {s} at {o}. |
        {s} runs as far as {o}. | {s} is bound for {o}.""",
        questions="""where does {s} go? | where is {s} going? | to which town does {s} travel? | where
        does {s} end? | {s} goes to which town? | where does {s} take its passengers? | which town does
        {s} go to? | what is the last stop of {s}? | for which town is {s} bound?""",
        phrases="the town {s} goes to | the town where {s} ends | the town {s} is bound for",
    ),
    told(
        "driver",
        "train",
        "person",
        nouns="driver | engine driver | operator",
        verbs="drives:is driven | operates:is operated",
        facts="""at the controls of {s} sits {o}. | {o} sits in the cab of {s}. | {s} has {o} as its
        driver. | {o} works as the driver of {s}. | {s} is in the charge of the driver {o}. | passengers
        of {s} trust {o}, the driver.""",
        questions="""who sits at the controls of {s}? | who sits in the cab of {s}? | who works as the
        driver of {s}? | which driver does {s} have? | which driver is on {s}? | who takes {s} down the
        line?""",
        phrases="the person at the controls of {s} | the person in the cab of {s}",
    ),
    told(
        "deadline",
        "project",
        "date",
        nouns="deadline | due date | delivery date | closing date",
        facts="""{s} must be finished by {o}. | {s} is due on {o}. | {s} has to be done by {o}. | {s} runs
        until {o}. | {s} ends on {o}. | the client expects {s} on {o}. | {s} will be handed over on {o}. |
        no work on {s} is allowed after {o}. | {s} is to be delivered on {o}.""",
        questions="""when must {s} be finished? | when is {s} due? | by when must {s} be done? | on which
        day is {s} due? | until when does {s} run? | by what date should {s} be complete? | when does the
        client expect {s}? | when will {s} be handed over? | {s} is due when? | what is the last day for
        {s}?""",
        phrases="the day {s} is due | the date by which {s} must be finished | the day on which {s} ends",
    ),
    told(
        "budget",
        "project team",
        "price",
        nouns="budget | funding | allotted sum | financial frame",
        facts="""{s} has a budget of {o}. | {o} was set aside for {s}. | {s} may cost {o} and no more. |
        {s} was granted {o}. | {s} can spend {o}. | the committee gave {s} {o}. | {s} has {o} at its
        disposal. | {o} is available for {s}. | the purse of {s} holds {o}.""",
        questions="""how much money does {s} have? | how much may {s} cost? | how much was set aside for
        {s}? | what can {s} spend? | how much was {s} granted? | how large is the budget of {s}? | what
        sum is available for {s}? | how much money was given to {s}?""",
        phrases="the money set aside for {s} | the sum {s} can spend | the money granted to {s}",
    ),
    told(
        "manager",
        "project",
        "person",
        nouns="manager | project manager | project lead | coordinator",
        verbs="manages:is managed | coordinates:is coordinated | oversees:is overseen",
        facts="""{o} is responsible for {s}. | {o} is in charge of {s}. | the responsibility for {s} lies
        with {o}. | {s} was entrusted to {o}. | questions about {s} go to {o}, the manager. | the contact
        person for {s} is {o}. | {o} took over {s} as manager. | {s} is in the care of {o}.""",
        questions="""who is responsible for {s}? | who is in charge of {s}? | to whom was {s} entrusted? |
        whom should I ask about {s}? | with whom does the responsibility for {s} lie? | who took over {s}
        as manager? | who is the contact person for {s}? | in whose care is {s}?""",
        phrases="the person responsible for {s} | the person in charge of {s} | the contact person for {s}",
    ),
    told(
        "client",
        "project",
        "organisation",
        nouns="client | customer | contracting body",
        verbs="commissioned:was commissioned | ordered:was ordered | requested:was requested",
        facts="""{s} is being carried out for {o}. | {s} is done on behalf of {o}. | {o} gave the order
        for {s}. | {o} is the client behind {s}. | the result of {s} will go to {o}. | {o} pays for {s} as
        the client.""",
        questions="""for whom is {s} being carried out? | on whose behalf is {s} done? | who gave the
        order for {s}? | which client is behind {s}? | to whom will the result of {s} go? | for which
        organisation is {s}?""",
        phrases="the organisation {s} is done for | the organisation behind {s} as client",
    ),
    told(
        "ingredient",
        "dish",
        "food",
        nouns="main ingredient | chief ingredient | key ingredient | basis",
        facts="""{s} is made with {o}. | {s} contains {o}. | {s} is prepared from {o}. | nobody can cook
        {s} without {o}. | the secret of {s} is its {o}. | for {s} one needs plenty of {o}. | the cook
        starts {s} with {o}. | {s} tastes of {o}. | {s} owes its taste to {o}.""",
        questions="""what is {s} made with? | which ingredient does {s} need most? | what goes into {s}? |
        what is needed to cook {s}? | of what does {s} taste? | what does {s} contain? | {s} is prepared
        from what? | without what can nobody cook {s}? | to what does {s} owe its taste?""",
        phrases="the ingredient {s} is made with | the thing one needs for {s}",
    ),
    told(
        "cook",
        "dish",
        "person",
        nouns="inventor | creator | original cook",
        verbs="first cooked:was first cooked | invented:was invented | thought up:was thought up",
        facts="""{s} comes from the kitchen of {o}. | the recipe for {s} is by {o}. | {s} is a creation of
        {o}. | {o} wrote down the recipe for {s}. | in the kitchen of {o}, {s} was served for the first
        time. | {o} is known as the creator of {s}.""",
        questions="""from whose kitchen does {s} come? | whose recipe is {s}? | who wrote the recipe for
        {s}? | whose creation is {s}? | who came up with {s}? | in whose kitchen was {s} first served?""",
        phrases="the person who wrote the recipe for {s} | the person who came up with {s}",
    ),
    told(
        "cooking_time",
        "dish",
        "duration",
        nouns="cooking time | preparation time | time in the oven",
        facts="""{s} takes {o} to cook. | {s} has to simmer for {o}. | cook {s} for {o}. | {s} is ready
        after {o}. | {s} stays in the oven for {o}. | allow {o} for {s}. | {s} needs {o} on the stove. |
        after {o}, {s} can be served.""",
        questions="""how long does {s} take to cook? | how long must {s} simmer? | for how long should one
        cook {s}? | after what time is {s} ready? | how long does {s} stay in the oven? | how much time
        does {s} need? | when can {s} be served after it is put on the stove?""",
        phrases="""the time {s} takes to cook | the time {s} needs on the stove | the time after which {s}
        is ready""",
    ),
    told(
        "origin",
        "dish plant song",
        "region",
        nouns="region of origin | homeland | home region",
        facts="""{s} comes from {o}. | {s} has its origin in {o}. | {s} is typical of {o}. | {s} is native
        to {o}. | {s} originated in {o}. | {o} is the homeland of {s}. | people in {o} have always known
        {s}. | {s} spread from {o} to the rest of the world.""",
        questions="""where does {s} come from? | from which region does {s} come? | of which region is {s}
        typical? | where did {s} originate? | to which region is {s} native? | which region gave us {s}? |
        {s} comes from which region? | where did {s} spread from?""",
        phrases="""the region {s} comes from | the region where {s} originated | the region to which {s}
        is native""",
    ),
    told(
        "coach",
        "team",
        "person",
        nouns="coach | trainer | head coach",
        verbs="coaches:is coached | trains:is trained | prepares:is prepared",
        facts="""{s} plays under {o}, its coach. | {o} stands on the sideline for {s} as coach. | {s}
        hired {o} as coach. | {o} picks the players of {s}. | {s} signed {o} as its coach. | the players
        of {s} listen to {o}, the coach.""",
        questions="""under which coach does {s} play? | whom did {s} hire as coach? | who picks the
        players of {s}? | whom did {s} sign as coach? | who stands on the sideline for {s}? | to whom do
        the players of {s} listen?""",
        phrases="the person who picks the players of {s} | the person {s} hired as coach",
    ),
    told(
        "home_ground",
        "team",
        "town",
        nouns="home town | home ground | home city",
        facts="""{s} plays its home games in {o}. | {s} comes from {o}. | the stadium of {s} is in {o}. |
        {s} is the team of {o}. | fans in {o} cheer for {s}. | {s} represents {o}. | {s} trains in {o}.""",
        questions="""where does {s} play its home games? | which town does {s} come from? | where is the
        stadium of {s}? | which town does {s} represent? | fans in which town cheer for {s}? | in which
        town does {s} train? | {s} is the team of which town?""",
        phrases="the town {s} comes from | the town where {s} plays | the town {s} represents",
    ),
    told(
        "sport",
        "team",
        "sport",
        nouns="sport | game | discipline",
        facts="""{s} plays {o}. | {s} competes in {o}. | {s} has won prizes in {o}. | {s} devotes itself
        to {o}. | in {o}, {s} is hard to beat. | {s} is a team for {o}. | the sport of {s} is {o}.""",
        questions="""what does {s} play? | which sport does {s} play? | what kind of sport does {s} play?
        | in which sport does {s} compete? | in which sport has {s} won prizes? | {s} plays which sport? |
        to which sport does {s} devote itself?""",
        phrases="the sport {s} plays | the sport in which {s} competes | the game {s} plays",
    ),
    told(
        "singer",
        "song",
        "person",
        nouns="singer | performer | vocalist",
        verbs="sang:was sung | performed:was performed | recorded:was recorded",
        facts="""{s} was made famous by {o}. | the voice heard in {s} is that of {o}. | {o} lent a voice
        to {s}. | {s} became a success for {o}, who sang it. | {o} gave the first performance of {s}.""",
        questions="""whose voice is heard in {s}? | who made {s} famous? | who gave the first performance
        of {s}? | who lent a voice to {s}? | for whom was {s} a success? | who is heard in {s}?""",
        phrases="the person whose voice is heard in {s} | the person who made {s} famous",
    ),
    told(
        "habitat",
        "plant",
        "habitat",
        nouns="habitat | growing place | natural home",
        facts="""{s} grows in {o}. | {s} is found in {o}. | {s} thrives in {o}. | look for {s} in {o}. |
        {s} prefers {o}. | {s} flourishes in {o}. | {s} needs {o} to grow. | {o} are where {s} grows best.""",
        questions="""where does {s} grow? | in what surroundings does {s} thrive? | where should one look
        for {s}? | what does {s} prefer as a habitat? | where is {s} found? | {s} grows where? | where
        does {s} flourish? | where does {s} grow best?""",
        phrases="""the place where {s} grows | the kind of place where {s} thrives | the place where {s}
        is found""",
    ),
    told(
        "bloom",
        "plant",
        "month",
        nouns="flowering month | month of bloom | flowering season",
        facts="""{s} flowers in {o}. | {s} blooms in {o}. | {s} is in blossom in {o}. | in {o}, {s} opens
        its flowers. | every {o}, {s} bursts into flower. | {s} shows its flowers in {o}. | bees visit {s}
        in {o}.""",
        questions="""when does {s} flower? | in which month does {s} bloom? | when is {s} in blossom? |
        {s} flowers in which month? | when does {s} open its flowers? | in what month do bees visit {s}? |
        which month sees {s} in flower?""",
        phrases="""the month in which {s} flowers | the month when {s} blooms | the month that sees {s} in
        flower""",
    ),
    told(
        "remedy",
        "plant",
        "ailment",
        nouns="medical use | healing use | use in medicine",
        facts="""{s} helps against {o}. | {s} cures {o}. | {s} is used to treat {o}. | doctors give {s}
        for {o}. | a tea of {s} soothes {o}. | those who suffer from {o} take {s}. | {s} is a remedy for
        {o}. | {s} brings relief from {o}.""",
        questions="""what does {s} help against? | what does {s} cure? | what is {s} used to treat? |
        against what is {s} given? | for what do doctors give {s}? | what does a tea of {s} soothe? | {s}
        is a remedy for what? | from what does {s} bring relief?""",
        phrases="the ailment {s} cures | the ailment {s} helps against | the illness {s} is used to treat",
    ),
    told(
        "admin",
        "server",
        "person",
        nouns="administrator | system administrator | maintainer",
        verbs="administers:is administered | maintains:is maintained | looks after:is looked after",
        facts="""{o} has the keys to {s}. | {s} is in the care of {o}. | when {s} fails, {o} is called. |
        {o} is responsible for {s}. | {o} keeps {s} running. | trouble with {s} is reported to {o}.""",
        questions="""who has the keys to {s}? | in whose care is {s}? | who is called when {s} fails? |
        who is responsible for {s}? | who keeps {s} running? | to whom should trouble with {s} be
        reported?""",
        phrases="""the person responsible for {s} | the person called when {s} fails | the person who
        keeps {s} running""",
    ),
    told(
        "address",
        "server",
        "address",
        nouns="address | network address | IP address",
        facts="""{s} answers at {o}. | {s} can be reached at {o}. | {s} listens on {o}. | to reach {s},
        connect to {o}. | connect to {o} for {s}. | {s} has been given the address {o}. | requests for {s}
        go to {o}.""",
        questions="""where can {s} be reached? | at which address does {s} answer? | what should I connect
        to for {s}? | on which address does {s} listen? | which address does {s} have? | where do requests
        for {s} go? | at what address is {s}?""",
        phrases="""the address at which {s} answers | the address {s} listens on | the address of the
        machine {s}""",
    ),
    told(
        "password",
        "server house project",
        "password",
        nouns="password | access code | passphrase | secret word",
        facts="""{s} is protected by the password {o}. | use the password {o} for {s}. | to get into {s},
        say {o}. | {s} opens with the password {o}. | the password {o} gives access to {s}. | the word {o}
        lets you into {s}. | {s} asks for a password; it is {o}. | enter {o} to open {s}.""",
        questions="""what password does {s} have? | which password opens {s}? | how do I get into {s},
        with which password? | what must I enter to open {s}? | what password protects {s}? | with which
        password does {s} open? | which word lets one into {s}? | what gives access to {s}?""",
        phrases="the password that opens {s} | the word that gives access to {s} | the password for {s}",
    ),
    told(
        "hosts",
        "server",
        "room",
        nouns="server room | location | room",
        facts="""{s} stands in room {o}. | {s} is kept in room {o}. | {s} hums away in room {o}. | you
        will find {s} in room {o}. | room {o} houses {s}. | {s} was moved to room {o}. | the cables of {s}
        run to room {o}.""",
        questions="""in which room is {s}? | in what room does {s} stand? | which room houses {s}? | where
        is {s} kept, in which room? | to which room was {s} moved? | in which room can I find {s}? | {s}
        is in what room?""",
        phrases="the room where {s} stands | the room that houses {s} | the room {s} was moved to",
    ),
)
