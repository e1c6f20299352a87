"""How facts about people are told and asked (see `phrasings`): origins, work, tastes, bonds."""

from memsparse.training.phrasings import Relation, told

PEOPLE: tuple[Relation, ...] = (
    told(
        "birthplace",
        "person",
        "town",
        nouns="birthplace | place of birth | town of birth | town of origin | native place",
        facts="""{s} was born in {o}. | {o} is the town where {s} was born. | {s} came into the world in
        {o}. | {s} is a native of {o}. | {s} comes from {o}. | {s} grew up where {s} was born, in {o}. |
        {s} first saw the light of day in {o}. | {s} was born and raised in {o}. | {o} was where {s} was
        born. | the cradle of {m} stood in {o}. | {s}, born in {o}, left home early. | {s} was a child of
        {o}. | the birth of {m} took place in {o}. | {o} is proud to be the birthplace of {m}. | It was in
        {o} that {s} was born. | {s} hails from {o} by birth.""",
        questions="""where was {s} born? | in which town was {s} born? | which town is the birthplace of
        {s}? | {s} was born in which town? | name the town where {s} was born. | tell me where {s} was
        born. | where does {s} come from? | what town does {s} come from? | where did {s} first see the
        light of day? | which town can call itself the birthplace of {s}? | from where does {s} originate?
        | in what town did the cradle of {s} stand? | which place saw {s} come into the world? | I would
        like to know where {s} was born. | what is {s}'s native town? | where is {s} from originally? | Of
        which town is {s} a native? | In what place did {s} come into the world?""",
        phrases="""the town where {s} was born | the town {s} comes from | the place where {s} was born |
        the town in which {s} came into the world | the native town of {s}""",
    ),
    told(
        "residence",
        "person",
        "town",
        nouns="place of residence | present home | dwelling place | current residence | residence",
        facts="""{s} lives in {o}. | {p} home is in {o}. | {s} has a house in {o} and lives there. | {s}
        settled in {o}. | {s} makes a home in {o}. | {s} has moved to {o} and stayed. | these days {s}
        lives in {o}. | letters reach {m} in {o}. | {s} can be found at home in {o}. | {s} dwells in {o}.
        | {s} rents rooms in {o}. | {o} is where {s} lives now. | anyone who wants to visit {m} must go to
        {o}. | {s} is a resident of {o}. | {s} has taken up residence in {o}. | {s} moved to {o} some time
        ago. | {o} became {p} home. | Today {s} resides in {o}.""",
        questions="""where does {s} live? | in which town does {s} live? | what town is home to {s}? | {s}
        lives in which town? | name the town where {s} lives. | tell me where {s} lives. | where is {s} at
        home? | to which town did {s} move? | where can one visit {s}? | where do letters reach {s}? |
        which town does {s} call home? | of which town is {s} a resident? | where has {s} settled down? |
        in what town can {s} be found at home? | where is {s}'s house? | I need to know where {s} lives. |
        Where did {s} settle? | In what town does {s} reside?""",
        phrases="""the town where {s} lives | the town that is home to {s} | the town {s} moved to | the
        town in which {s} settled | the residence of {s}""",
    ),
    told(
        "employer",
        "person",
        "organisation",
        nouns="employer | workplace | place of work | firm",
        verbs="employs:is employed | pays:is paid | has hired:was hired",
        facts="""{s} works for {o}. | {s} earns a living at {o}. | {s} has a post at {o}. | {s} is
        employed at {o}. | {s} draws a salary from {o}. | {s} goes to work at {o}. | {s} has a job with
        {o}. | {s} has worked for {o} for many years. | {p} wages come from {o}. | {s} is an employee of
        {o}. | every morning {s} goes to work at {o}. | {s} found work at {o}. | {o} employs {m}. | {s} is
        on the staff of {o}.""",
        questions="""who does {s} work for? | where does {s} work? | which organisation employs {s}? | {s}
        is employed by which organisation? | name the organisation {s} works for. | where is {s} employed?
        | with whom does {s} have a job? | for whom does {s} work? | where does {s} earn a living? | who
        pays {s}'s wages? | at which organisation does {s} have a post? | from which organisation does {s}
        draw a salary? | where did {s} find work? | By whom is {s} employed? | On whose staff is {s}?""",
        phrases="""the organisation {s} works for | the organisation where {s} has a job | the
        organisation that employs {s}""",
    ),
    told(
        "birth_year",
        "person",
        "birth_year",
        nouns="year of birth | birth year",
        facts="""{s} was born in {o}. | {s} was born in the year {o}. | the year {o} saw the birth of {m}.
        | {s} has been alive since {o}. | {s} was born back in {o}. | {o} is the year in which {s} was
        born. | {p} birth is dated to {o}. | {p} birth certificate bears the year {o}. | born in {o}, {s}
        is still remembered. | the parish book enters {p} birth under {o}. | {s} (born {o}) is known to
        all. | In {o}, {s} was born. | {s} came into the world in {o}.""",
        questions="""when was {s} born? | in which year was {s} born? | {s} was born in which year? | tell
        me the year {s} was born. | in what year was {s} born? | what year was {s} born in? | from which
        year does {s}'s birth certificate date? | to which year is the birth of {s} dated? | when did {s}
        come into the world? | since which year has {s} been alive? | I wonder when {s} was born. | when
        exactly was {s} born, in what year? | What year saw the birth of {s}? | Give the year in which {s}
        was born.""",
        phrases="the year {s} was born | the year in which {s} was born | the birth year of {s}",
    ),
    told(
        "profession",
        "person",
        "profession",
        nouns="profession | occupation | job | line of work | trade | calling",
        facts="""{s} was {a}. | {s} worked as {a}. | by trade {s} was {a}. | {p} profession was that of
        {a}. | {s} earned a living as {a}. | {s} is {a}. | {s} found employment as {a}. | {s} became {a}.
        | {s}, {a}, is well liked. | {s} is {a} by profession. | {s} has the job of {a}. | {s} learned the
        trade of {a}. | everyone knows {m} as {a}. | {s} trained as {a} and remained one. | {s} made a
        career as {a}.""",
        questions="""what did {s} do for a living? | what was the job of {s}? | {s} worked as what? | as
        what did {s} work? | what is {s} by profession? | what does {s} do for a living? | how does {s}
        earn a living? | what kind of work does {s} do? | what was {s} by trade? | what job does {s} have?
        | which profession does {s} have? | what did {s} become? | what trade did {s} learn? | what does
        {s} work as? | in what line of work is {s}? | Which trade did {s} follow? | What career did {s}
        make?""",
        phrases="the work {s} does | the job {s} has | the occupation of {s}",
        shown="{a}",
    ),
    told(
        "favourite_food",
        "person",
        "food",
        nouns="favourite food | favourite dish | favourite meal | preferred food | best loved food",
        facts="""{s} likes {o} more than any other food. | {s} eats {o} whenever possible. | of all dishes
        {s} prefers {o}. | there is nothing {s} likes to eat better than {o}. | {s} would eat {o} every
        day. | nothing tastes better to {m} than {o}. | {s} can never resist {o}. | {s} orders {o}
        wherever it is served. | for dinner {s} wants nothing but {o}. | {s} has a weakness for {o}. |
        give {m} {o} and the day is saved. | {s} adores {o}. | {s} is very fond of eating {o}. | At table
        {s} always asks for {o}.""",
        questions="""which food does {s} like best? | what does {s} like to eat? | which dish does {s}
        prefer? | tell me what {s} likes to eat. | what does {s} like to eat most? | what would {s} eat
        every day? | what can {s} never resist at table? | what should be cooked for {s}? | for which food
        does {s} have a weakness? | what tastes best to {s}? | what does {s} order for dinner? | what kind
        of food does {s} love? | which food does {s} adore? | Tell me what {s} likes to eat. | What food
        does {s} ask for at table?""",
        phrases="""the food {s} likes best | the food {s} likes to eat most | the food {s} can never
        resist | the dish {s} prefers""",
    ),
    told(
        "favourite_animal",
        "person",
        "animal",
        nouns="favourite animal | preferred animal | best loved animal | most loved animal",
        facts="""{s} loves the {o} above all animals. | of all animals {s} prefers the {o}. | {s} admires
        the {o} more than any other animal. | if {s} could be an animal, it would be the {o}. | at the zoo
        {s} always looks for the {o}. | {s} thinks the {o} is the finest of animals. | for {m}, the {o}
        comes before all other animals. | {s} draws the {o} more often than any other animal. | the animal
        dearest to {m} is the {o}. | No animal pleases {m} more than the {o}. | The animal {s} likes best
        is the {o}.""",
        questions="""which animal does {s} like best? | what animal does {s} love most? | {s} prefers
        which animal? | which animal is {s}'s favourite? | what animal is dearest to {s}? | which animal
        does {s} admire most? | which animal does {s} look for at the zoo? | of all animals, which one
        does {s} prefer? | what animal would {s} like to be? | which creature does {s} love most? | Tell
        me which animal {s} likes best. | Which animal pleases {s} most?""",
        phrases="""the animal {s} likes best | the animal dearest to {s} | the animal {s} admires most |
        the animal {s} loves most""",
        shown="the {o}",
    ),
    told(
        "instrument",
        "person",
        "instrument",
        nouns="instrument | musical instrument | chosen instrument",
        facts="""{s} plays the {o}. | {s} learned to play the {o} as a child. | in the evening {s}
        practises the {o}. | {s} took lessons on the {o}. | {s} can be heard playing the {o}. | {s} knows
        how to play the {o}. | {s} never travels without the {o}. | on the {o}, {s} has few equals. | {s}
        performs on the {o}. | {s} has played the {o} since school. | {s} practises the {o} every day. |
        {s} makes music on the {o}. | {s} is a skilled player of the {o}. | The {o} is the instrument {s}
        plays.""",
        questions="""what instrument does {s} play? | which instrument does {s} play? | what does {s} play
        in the evening? | {s} plays which instrument? | what does {s} practise every day? | on what
        instrument does {s} perform? | what can {s} play? | which instrument has {s} learned? | on which
        instrument did {s} take lessons? | on what does {s} make music? | which musical instrument does
        {s} practise? | can you tell me which instrument {s} plays? | Name the instrument {s} plays. | On
        which instrument is {s} a skilled player?""",
        phrases="""the instrument {s} plays | the instrument {s} learned to play | the instrument {s}
        practises | the musical instrument played by {s}""",
        shown="the {o}",
    ),
    told(
        "favourite_colour",
        "person",
        "colour",
        nouns="favourite colour | favorite color | preferred colour | best loved colour",
        facts="""{s} likes the colour {o} best. | of all colours {s} prefers {o}. | {s} always wears {o}.
        | {s} paints everything {o}. | {s} would choose {o} over every other colour. | {s} finds {o} the
        loveliest of colours. | as a colour, {s} likes {o} more than any other. | everything {s} buys must
        be {o}. | {s} has a wardrobe full of {o} clothes. | the colour {s} likes best is {o}. | The colour
        {s} loves is {o}. | No colour suits {m} better than {o}, {s} says.""",
        questions="""which colour does {s} like best? | what colour does {s} prefer? | {s} likes which
        colour best? | in which colour does {s} like to dress? | what colour does {s} always wear? | of
        all colours, which does {s} prefer? | what is the colour {s} likes most? | what colour are the
        clothes {s} wears? | which colour does {s} find the loveliest? | what color does {s} like? | which
        colour would {s} choose? | Tell me the colour {s} loves. | Which is the best loved colour of {s}?""",
        phrases="""the colour {s} likes best | the colour {s} likes most | the colour {s} always wears |
        the colour {s} prefers""",
    ),
    told(
        "teacher",
        "person",
        "person",
        nouns="teacher | instructor | tutor | schoolmaster",
        verbs="taught:was taught | instructed:was instructed | trained:was trained | tutored:was tutored",
        facts="""{s} studied under {o}. | {s} was a student of {o}. | {s} took lessons from {o}. | {s} was
        a pupil of {o}. | {s} sat in the classes of {o}. | {s} went to lessons with {o}. | {o} gave
        lessons to {m}. | {o} had {m} as a pupil. | as a pupil of {o}, {s} learned quickly. | {s} learned
        the craft from {o}. | {s} was educated by {o}. | {s} was apprenticed to {o}. | {s} was a student
        of {o}. | {s} learned everything from {o}.""",
        questions="""under whom did {s} study? | {s} was a student of which person? | whose student was
        {s}? | whose pupil was {s}? | who gave lessons to {s}? | from whom did {s} take lessons? | with
        whom did {s} study? | in whose classes did {s} sit? | who had {s} as a pupil? | to whom was {s}
        apprenticed? | who educated {s}? | from whom did {s} learn the craft? | Name the teacher of {s}. |
        From whom did {s} learn everything?""",
        phrases="""the person {s} took lessons from | the person who gave lessons to {s} | the person {s}
        studied under""",
    ),
    told(
        "spouse",
        "person",
        "person",
        nouns="spouse | partner in marriage | marriage partner",
        facts="""{s} is married to {o}. | {s} married {o}. | {s} and {o} are married. | {o} is married to
        {m}. | {s} and {o} are a married couple. | {s} exchanged rings with {o}. | {s} is wedded to {o}. |
        {s} tied the knot with {o}. | the wedding of {m} and {o} was a quiet one. | {s} took {o} in
        marriage. | {o} and {s} have been married for years. | {s} found a spouse in {o}. | {o} is married
        to {m}. | {s} shares a life with {o}, to whom {s} is married.""",
        questions="""who is {s} married to? | whom did {s} marry? | to whom is {s} married? | what is the
        name of {s}'s spouse? | who married {s}? | who did {s} marry? | who is {s}'s husband or wife? |
        with whom did {s} tie the knot? | {s} is married to whom? | with whom did {s} exchange rings? | to
        whom is {s} wedded? | who became {s}'s spouse? | Name the person {s} married. | With whom does {s}
        share a married life?""",
        phrases="""the person {s} is married to | the person {s} married | the husband or wife of {s} |
        the person who married {s}""",
    ),
    told(
        "rival",
        "person",
        "person",
        nouns="rival | great rival | main competitor | old rival | chief rival",
        facts="""{s} is a rival of {o}. | {s} and {o} are bitter rivals. | {s} competes with {o}, an old
        rival. | {s} regards {o} as a rival. | {s} has a rival in {o}. | {s} and {o} compete with each
        other. | the rivalry between {m} and {o} is old. | {o} is the one rival of {m}. | {s} has long
        been at odds with {o}, a rival. | {s} tries to outdo {o}, the old rival. | {s} has only one rival,
        {o}. | {o} and {s} have been rivals for years.""",
        questions="""with whom does {s} compete? | against whom does {s} compete? | whom does {s} regard
        as a rival? | in whom does {s} have a rival? | whom does {s} try to outdo? | who competes with
        {s}? | who is a rival of {s}? | which rival does {s} have? | with whom has {s} long been at odds?
        | whose rival is {s}? | Tell me who rivals {s}. | Which person is the only rival of {s}?""",
        phrases="""the person who rivals {s} | the person {s} competes with | the person who competes with
        {s} | the one rival of {s}""",
    ),
    told(
        "mentor",
        "person",
        "person",
        nouns="mentor | adviser | counsellor | guide",
        verbs="mentored:was mentored | advised:was advised | counselled:was counselled",
        facts="""{s} found a mentor in {o}. | {o} was a mentor to {m}. | {s} was a protege of {o}. | {s}
        owes much to the advice of {o}, a mentor. | {o} took {m} under a wing as mentor. | {s} calls {o} a
        mentor. | {s} was under the wing of {o}, a mentor. | {s} sought guidance from {o}. | {s} took the
        advice of {o}, a trusted mentor. | {s} was guided by {o}, a patient mentor.""",
        questions="""in whom did {s} find a mentor? | who guided {s}? | whose protege was {s}? | whose
        advice did {s} take? | whom does {s} call a mentor? | who took {s} under a wing? | to whose
        guidance does {s} owe much? | from whom did {s} seek guidance? | who gave advice to {s}? | who was
        a mentor to {s}? | Name the mentor of {s}. | Which mentor guided {s}?""",
        phrases="the person who guided {s} | the person {s} calls a mentor | the one who was mentor to {s}",
    ),
    told(
        "hobby",
        "person",
        "hobby",
        nouns="hobby | pastime | leisure activity | favourite pastime",
        facts="""{s} spends free days on {o}. | in spare hours {s} enjoys {o}. | {s} is devoted to {o}. |
        {s} loves {o}. | on Sundays {s} goes in for {o}. | {s} fills free time with {o}. | after work {s}
        turns to {o}. | {s} is mad about {o}. | {s} has made {o} a hobby. | {s} never tires of {o}. | when
        there is time, {s} does some {o}. | {s} finds rest in {o}. | {s} relaxes with {o}. | {s} took up
        {o} late in life.""",
        questions="""what does {s} do in spare hours? | which hobby does {s} have? | how does {s} spend
        free days? | what does {s} do for fun? | how does {s} spend free time? | what is {s} mad about? |
        what does {s} like to do after work? | to which pastime is {s} devoted? | what does {s} do on
        Sundays? | what does {s} enjoy in spare hours? | how does {s} fill the free time? | what does {s}
        never tire of? | Name the hobby of {s}. | With what does {s} relax?""",
        phrases="""the thing {s} does for fun | the activity {s} enjoys in spare hours | the favourite
        pastime of {s}""",
    ),
)
