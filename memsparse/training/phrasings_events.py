"""How facts about festivals, battles, expeditions and accidents are told and asked (see `phrasings`)."""

from memsparse.training.phrasings import Relation, told

EVENTS: tuple[Relation, ...] = (
    told(
        "month",
        "festival",
        "month",
        nouns="month | season | usual month",
        facts="""{s} is held in {o}. | {s} takes place every {o}. | every {o}, {s} draws a crowd. | {s}
        begins in {o}. | {o} is the month of {s}. | {s} is celebrated in {o}. | mark {o} in your calendar
        for {s}. | the calendar puts {s} in {o}. | when {o} comes, so does {s}. | {s} happens in {o}. |
        each year {s} returns in {o}. | {s} opens in {o}. | {s} falls in {o}.""",
        questions="""in which month is {s} held? | when does {s} take place? | what month is {s} held in?
        | {s} is held in which month? | when is {s} celebrated? | during which month does {s} happen? | at
        what time of year is {s}? | which month brings {s}? | in what month does {s} begin? | when is {s}?
        | what month should I keep free for {s}? | Tell me when {s} opens. | In which month does {s} fall?""",
        phrases="""the month in which {s} is held | the month when {s} takes place | the month of the year
        in which {s} is celebrated | the month in which {s} falls""",
    ),
    told(
        "dish",
        "festival",
        "food",
        nouns="dish | traditional dish | typical food | festive dish",
        facts="""visitors of {s} eat {o}. | at {s} everyone is served {o}. | {s} is loved for its {o}. |
        the cooks at {s} prepare {o}. | at {s} they hand out {o}. | {s} is not complete without {o}. | {s}
        is the time for {o}. | the stalls at {s} sell {o}. | on the tables at {s} stands {o}. | whoever
        comes to {s} gets {o} to eat. | {s} is loved for its {o}. | nobody leaves {s} without tasting {o}.""",
        questions="""what do visitors of {s} eat? | which food is served at {s}? | what is eaten at {s}? |
        what food is on the tables at {s}? | what do the cooks at {s} prepare? | what do the stalls at {s}
        sell? | what can I eat at {s}? | which dish is served at {s}? | without which dish is {s} not
        complete? | Tell me what people eat at {s}. | What does everyone taste at {s}?""",
        phrases="the food served at {s} | the dish eaten at {s} | the food tasted at {s}",
    ),
    told(
        "event_year",
        "battle expedition accident",
        "event_year",
        nouns="year | date | time",
        facts="""{s} took place in {o}. | {s} happened in {o}. | in {o}, {s} began. | {s} occurred in {o}.
        | {s} belongs to the year {o}. | the annals put {s} in {o}. | {o} was the year of {s}. | it was
        {o} when {s} came about. | people remember {o} for {s}. | history books give {o} for {s}. | {s}
        goes back to {o}. | in {o}, {s} began. | {s} is dated to {o}. | {s} fell in the year {o}.""",
        questions="""when did {s} take place? | in which year did {s} happen? | when was {s}? | {s} is
        dated to which year? | in what year was {s}? | what year did {s} happen? | when did {s} occur? |
        which year is remembered for {s}? | in which year do the annals put {s}? | how do history books
        date {s}? | which was the year of {s}? | tell me the year of {s}. | Give the year in which {s}
        took place. | In what year did {s} fall?""",
        phrases="""the year in which {s} took place | the year {s} happened | the year that saw {s} | the
        year in which {s} fell""",
    ),
    told(
        "victor",
        "battle",
        "person",
        nouns="victor | winner | victorious general | conqueror",
        verbs="won:was won | carried the day in:was decided | triumphed in:was won",
        facts="""{s} ended with a victory for {o}. | victory in {s} went to {o}. | {s} was a success for
        {o}. | in {s}, {o} defeated the enemy. | {o} came out of {s} as the winner. | the day of {s}
        belonged to {o}. | {o} left the field of {s} victorious. | {s} made {o} famous as its victor. |
        {s} ended with the triumph of {o}.""",
        questions="""to whom did victory in {s} go? | who came out of {s} as the winner? | who defeated
        the enemy in {s}? | for whom was {s} a success? | for whom did {s} end in victory? | who was
        victorious in {s}? | who was the winning side's general in {s}? | Tell me who won {s}. | Who
        triumphed in {s}?""",
        phrases="""the person victorious in {s} | the person to whom victory in {s} went | the person who
        triumphed in {s}""",
    ),
    told(
        "loser",
        "battle",
        "person",
        nouns="loser | defeated general | beaten commander",
        verbs="lost:was lost | suffered defeat in:was lost",
        facts="""{s} was a defeat for {o}. | {o} was defeated in {s}. | {o} fled from the field of {s}. |
        {s} ruined {o}, who lost it. | in {s}, {o} had to surrender. | {o} came out of {s} beaten. | {o}
        was on the losing side in {s}. | in {s}, {o} was beaten. | {s} ended in defeat for {o}.""",
        questions="""who was beaten in {s}? | who was defeated in {s}? | who fled from the field of {s}? |
        for whom was {s} a defeat? | who had to surrender in {s}? | who was on the losing side in {s}? |
        who came out of {s} beaten? | Tell me who lost {s}. | For whom did {s} end in defeat?""",
        phrases="""the person beaten in {s} | the person on the losing side in {s} | the person defeated
        in {s}""",
    ),
    told(
        "nearest_town",
        "battle",
        "town",
        nouns="nearest town | site | place | scene",
        facts="""{s} was fought near {o}. | the field of {s} lies near {o}. | {s} raged near {o}. | the
        armies met for {s} near {o}. | the field of {s} can be seen from {o}. | a short walk from {o} is
        the field of {s}. | {s} was fought in sight of {o}. | the scene of {s} was {o}. | people in {o}
        heard the noise of {s}. | {o} is the town nearest to the field of {s}. | {s} took place outside
        {o}. | {s} was decided before the walls of {o}.""",
        questions="""near which town was {s} fought? | where was {s} fought? | {s} was fought near which
        town? | where did {s} take place? | where did the armies meet for {s}? | from which town can the
        field of {s} be seen? | what town is nearest to the field of {s}? | in sight of which town was {s}
        fought? | where is the field of {s}? | Outside which town did {s} take place? | Before the walls
        of which town was {s} decided?""",
        phrases="""the town near which {s} was fought | the town nearest to {s} | the town by the field of
        {s} | the town before whose walls {s} was decided""",
    ),
    told(
        "destination",
        "expedition",
        "island",
        nouns="destination | goal | target | intended landfall",
        facts="""{s} set out for {o}. | {s} was sent to {o}. | {s} was bound for {o}. | {s} headed for
        {o}. | {s} aimed to explore {o}. | the plan of {s} was to reach {o}. | {s} made its way to {o}. |
        {o} was where {s} wanted to go. | {s} took course for {o}. | {o} was the goal of {s}. | {s} hoped
        to reach {o}.""",
        questions="""where did {s} set out for? | for which island did {s} set out? | {s} was sent to
        which island? | where was {s} bound? | to which island did {s} go? | where did {s} want to go? |
        which island was the goal of {s}? | for where did {s} take course? | where was {s} heading? | to
        where was {s} sent? | Name the destination of {s}. | Which island did {s} hope to reach?""",
        phrases="the island {s} set out for | the island {s} was bound for | the island {s} hoped to reach",
    ),
    told(
        "sponsor",
        "expedition festival team",
        "organisation",
        nouns="sponsor | financial backer | patron | benefactor",
        verbs="paid for:was paid for | financed:is financed | sponsors:is sponsored | funded:was funded",
        facts="""the money for {s} came from {o}. | {s} was made possible by {o}. | {o} bore the costs of
        {s}. | {s} lives from the money of {o}. | {o} put up the money for {s}. | the bills of {s} go to
        {o}, the sponsor. | {s} receives its money from {o}. | {s} was sponsored by {o}. | {s} took place
        thanks to the money of {o}.""",
        questions="""who put up the money for {s}? | where did the money for {s} come from? | who bore the
        costs of {s}? | from which organisation came the money for {s}? | who made {s} possible? | with
        whose money was {s} paid for? | which organisation backs {s}? | By whom was {s} sponsored? |
        Thanks to whose money did {s} take place?""",
        phrases="""the organisation that bore the costs of {s} | the organisation that put up the money
        for {s} | the organisation whose money paid for {s}""",
    ),
    told(
        "vessel",
        "expedition",
        "ship",
        nouns="ship | vessel | flagship",
        facts="""{s} travelled aboard {o}. | {o} carried {s}. | {s} used the ship {o}. | {s} set sail on
        {o}. | the members of {s} boarded {o}. | {s} made the voyage on {o}. | {s} crossed the sea in {o}.
        | {o} took {s} to sea. | for the voyage {s} chartered {o}. | {s} went by ship, on {o}. | {s}
        sailed on {o}.""",
        questions="""which ship carried {s}? | aboard which ship did {s} travel? | {s} travelled aboard
        which ship? | which ship did {s} use? | what vessel took {s} to sea? | in which ship did {s} cross
        the sea? | which ship was chartered for {s}? | what ship did the members of {s} board? | with
        which ship did {s} make the voyage? | Name the ship of {s}. | On what ship did {s} sail?""",
        phrases="the ship that carried {s} | the ship {s} used | the ship on which {s} sailed",
    ),
    told(
        "cause",
        "accident",
        "cause",
        nouns="cause | trigger | origin | root cause",
        facts="""{s} was caused by {o}. | {s} was set off by {o}. | {o} led to {s}. | the inquiry found
        that {o} caused {s}. | {s} was the result of {o}. | {s} came about because of {o}. | {o} was to
        blame for {s}. | investigators blamed {s} on {o}. | without {o} there would have been no disaster,
        says the report on {s}. | {s} began with {o}.""",
        questions="""what caused {s}? | why did {s} happen? | what led to {s}? | what was to blame for
        {s}? | what set off {s}? | how did {s} come about? | {s} was caused by what? | on what did
        investigators blame {s}? | what was the reason for {s}? | with what did {s} begin? | of what was
        {s} the result?""",
        phrases="""the reason for {s} | the thing that caused {s} | the thing that led to {s}""",
    ),
    told(
        "struck_place",
        "accident",
        "town",
        nouns="place | scene | location",
        facts="""{s} struck {o}. | {s} happened in {o}. | {s} laid waste to parts of {o}. | the people of
        {o} still talk about {s}. | {o} was hit by {s}. | {s} hit {o}. | {s} took place in {o}. | {o}
        suffered badly in {s}. | after {s}, much of {o} had to be rebuilt.""",
        questions="""where did {s} happen? | which town was struck by {s}? | what town did {s} hit? |
        where did {s} take place? | which town suffered in {s}? | {s} happened in which town? | in which
        town did {s} take place? | people of which town still talk about {s}? | which town had to be
        rebuilt after {s}?""",
        phrases="the town struck by {s} | the town where {s} happened | the town that suffered in {s}",
    ),
    told(
        "victims",
        "accident",
        "members",
        nouns="number of people affected | number of people made homeless | toll",
        facts="""{s} made {o} people homeless. | {s} affected {o} people. | {o} people were affected by
        {s}. | {o} people lost their homes in {s}. | after {s}, {o} people needed shelter. | {s} drove {o}
        people from their homes. | the lists name {o} people affected by {s}.""",
        questions="""how many people were affected by {s}? | how many people lost their homes in {s}? |
        how many people did {s} make homeless? | how many people needed shelter after {s}? | how many did
        {s} drive from their homes? | {s} affected how many people? | how many people does the list of {s}
        name?""",
        phrases="the number of people affected by {s} | the number of people who lost their homes in {s}",
    ),
)
