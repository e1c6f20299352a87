"""Further ways to ask for and tell what the tables of relations hold (see `phrasings`), for training alone.

None of them is ever reserved, and none that is reserved elsewhere is taken from here, so that worlds of the
"heldout" split ask as much that no training has seen as before.
"""

from collections.abc import Iterable
from dataclasses import replace

from memsparse.training import phrasings_asked, phrasings_told
from memsparse.training.phrasings import Relation, lowered, split_templates

_QUESTIONS: dict[str, str] = {
    "birthplace": """what is {s}'s hometown? | where was {s} brought into the world? | which town did {s}
        come from at birth? | what city was {s} born in? | {s} is originally from which town? | at which
        place was {s} born? | can you tell me the birth town of {s}?""",
    "residence": """where is {s} living now? | what is {s}'s address town? | in what place has {s} made a
        home? | what city does {s} live in? | where does {s} reside at present? | which town is {s} living
        in these days? | what place does {s} currently call home?""",
    "employer": """what company does {s} work for? | who is {s} employed by? | what is {s}'s place of
        employment? | at what organisation is {s} on the payroll? | {s} has a job where? | who gave {s} a
        job? | which firm is {s} with?""",
    "birth_year": """what year is {s} from? | {s}'s year of birth? | how far back was {s} born, which year?
        | in what year did {s} see the light of day? | when did the life of {s} begin?""",
    "profession": """what is {s}'s job? | what is {s}'s profession? | what does {s} do professionally? |
        what is {s} by trade? | what occupation does {s} have? | what sort of work does {s} do? | which line
        of work did {s} go into?""",
    "favourite_food": """what is {s}'s favourite food? | what food does {s} like the most? | what does {s}
        enjoy eating most of all? | which dish is {s} fondest of? | what does {s} prefer to eat? | what
        would {s} choose from any menu?""",
    "favourite_animal": """what is {s}'s favourite animal? | which creature is {s} fondest of? | what animal
        does {s} like the most? | what kind of animal does {s} prefer over others? | which animal appeals
        most to {s}?""",
    "instrument": """what does {s} play? | on what does {s} make music? | which musical instrument has {s}
        learnt? | what instrument is {s} able to play? | what can {s} be heard playing?""",
    "favourite_colour": """what is {s}'s favourite colour? | what color does {s} like the most? | which
        colour is {s} fondest of? | what colour would {s} choose? | which color does {s} prefer over all
        others?""",
    "teacher": """who was {s}'s teacher? | who gave {s} lessons? | who did {s} learn from? | by whom was {s}
        schooled? | who was it that educated {s}?""",
    "spouse": """who is {s}'s husband or wife? | what is the name of {s}'s spouse? | who is the partner of
        {s} in marriage? | to which person is {s} wed? | who did {s} get married to? | who shares a marriage
        with {s}?""",
    "rival": """who is {s}'s rival? | who is in competition with {s}? | who is {s}'s biggest competitor? |
        which person does {s} try to outdo? | who is {s} at odds with?""",
    "mentor": """who was {s}'s mentor? | who gave {s} advice? | whose guidance did {s} follow? | who took
        {s} under their wing? | which person acted as a mentor to {s}?""",
    "hobby": """what is {s}'s hobby? | how does {s} spend free time? | what does {s} enjoy doing after work?
        | what does {s} like to do for fun? | which pastime does {s} pursue? | what keeps {s} busy at
        weekends?""",
    "alma_mater": """which school did {s} go to? | where did {s} get an education? | what university or
        school did {s} attend? | at which institution was {s} a student? | which school gave {s} a
        diploma?""",
    "citizenship": """what is {s}'s nationality? | which country is {s} a national of? | where does {s} hold
        citizenship? | whose passport does {s} carry? | which state is {s} a citizen of?""",
    "pet": """what is {s}'s pet? | what animal lives with {s}? | which animal does {s} own? | what kind of
        pet is kept by {s}? | what animal does {s} look after at home?""",
    "language": """what is {s}'s native language? | what was the first language {s} learnt? | which tongue
        does {s} speak at home? | what language is {s} a native speaker of?""",
    "allergy": """what must {s} not eat? | which food makes {s} ill? | what food is {s} unable to tolerate?
        | to which food does {s} react badly?""",
    "assistant": """who is {s}'s assistant? | who helps {s} with the work? | who is employed as {s}'s
        assistant? | who supports {s} as an assistant?""",
    "licence_plate": """what is {s}'s licence plate? | what number is on {s}'s car? | which plate is on the
        car of {s}? | how is {s}'s car registered?""",
    "extension": """what is {s}'s extension? | how do I reach {s} by phone? | which extension belongs to
        {s}? | what should I dial to talk to {s}?""",
    "office": """what is {s}'s office number? | where is {s}'s office? | in which room does {s} work? | what
        room is {s} in?""",
    "height": """what is {s}'s height? | how many metres tall is {s}? | what height does {s} have?""",
    "collects": """what is it that {s} collects? | what does {s}'s collection consist of? | what things does
        {s} gather? | what is {s} a collector of?""",
    "heir": """who is {s}'s heir? | who inherits from {s}? | who will get what {s} leaves behind? | to which
        person goes the inheritance of {s}?""",
    "region": """what region is {s} in? | where is {s} located, in which region? | what part of the country
        does {s} lie in? | to what region does {s} belong? | {s} is situated in which region?""",
    "mayor": """who is the mayor of {s}? | who is {s}'s mayor? | who heads the town council of {s}? | who
        governs {s} as its mayor?""",
    "on_river": """what river is {s} on? | on the banks of which river is {s}? | what is the name of the
        river at {s}? | beside what river does {s} lie?""",
    "population": """what is the population of {s}? | how big is the population of {s}? | how many people
        call {s} home? | {s} has how many inhabitants?""",
    "known_for": """for what is {s} famous? | what made {s} famous? | which product is associated with {s}?
        | what does {s} have a name for?""",
    "founder": """who founded {s}? | who was the founder of {s}? | who is {s}'s founder? | who started {s}?
        | who set {s} up? | by whom was {s} founded? | who is {s} said to have been founded by?""",
    "founded_year": """in what year was {s} founded? | when did {s} start? | what is the founding year of
        {s}? | since when does {s} exist? | what year was {s} established? | how old is {s}, when was it
        founded?""",
    "emblem": """what is the emblem of {s}? | what animal stands for {s}? | which animal is on the coat of
        arms of {s}? | what does the emblem of {s} show? | which beast does {s} bear as its symbol?""",
    "discoverer": """who discovered {s}? | who was the first to find {s}? | by whom was {s} found? | who is
        {s}'s discoverer? | who was it that first described {s}?""",
    "area": """what is the area of {s}? | how big is {s}? | how many square kilometres does {s} have? | what
        is the size of {s}?""",
    "peak": """what is the highest point of {s}? | which peak is the tallest in {s}? | what is the name of
        {s}'s highest mountain? | what mountain towers over {s}?""",
    "capital": """what is the capital of {s}? | which town serves as the capital of {s}? | what is {s}'s
        capital city? | where does the government of {s} sit? | where is {s} ruled from?""",
    "ruler": """who rules {s}? | who is the ruler of {s}? | who reigns over {s}? | who is {s}'s head of
        state?""",
    "currency": """what is the currency of {s}? | what money do they use in {s}? | with what does one pay in
        {s}? | what is legal tender in {s}?""",
    "motto": """what is the motto of {s}? | what is {s}'s slogan? | which motto has {s} chosen? | under
        which motto does {s} stand?""",
    "maker": """who created {s}? | who is the creator of {s}? | whose hands made {s}?""",
    "made_year": """from what year is {s}? | what year does {s} date from? | when was {s} made? | in what
        year did {s} come into being? | when was {s} completed?""",
    "location": """where can {s} be found? | where is {s} located? | in what town is {s}? | what town is {s}
        in? | which town has {s}? | what place is home to {s}?""",
    "length": """what is the length of {s}? | how many metres or kilometres long is {s}? | how far does {s}
        stretch?""",
    "material": """what material was used for {s}? | from what was {s} made? | what does {s} consist of? |
        which material went into {s}?""",
    "colour": """what is the colour of {s}? | in which color does {s} come? | what colour was chosen for
        {s}? | how is {s} coloured?""",
    "mouth": """what is the mouth of {s}? | into which sea does {s} flow? | what sea does {s} reach? | where
        do the waters of {s} go?""",
    "origin": """what is the origin of {s}? | what region is {s} from? | in which region did {s} originate?
        | where is {s} native to?""",
    "habitat": """what is the habitat of {s}? | in what kind of place does {s} grow? | where can one find
        {s} growing? | what sort of ground does {s} need?""",
    "bloom": """what month does {s} bloom in? | when is {s} in flower? | in what month can one see {s}
        bloom? | which month brings the flowers of {s}?""",
    "remedy": """what is {s} used for in medicine? | what is {s} good for? | which illness does {s} relieve?
        | against which complaint is {s} taken?""",
    "leader": """who leads {s}? | who is the leader of {s}? | who heads {s}? | who runs {s}? | who is at the
        head of {s}?""",
    "seat": """where is the headquarters of {s}? | in what town does {s} have its headquarters? | where is
        {s} headquartered? | what town is {s} based in? | from which town does {s} operate?""",
    "members": """how many people are members of {s}? | what is the membership of {s}? | how many members
        are in {s}? | what number of members does {s} have?""",
    "makes": """what does {s} make? | what does {s} produce? | what goods does {s} trade in? | what is {s}'s
        main product? | what business is {s} in?""",
    "month": """what month is {s} in? | when is {s} celebrated? | in which month can one visit {s}? | when
        does {s} happen each year?""",
    "dish": """what food is typical of {s}? | what is eaten at {s}? | what do people eat during {s}? | which
        dish is traditional at {s}?""",
    "sponsor": """who sponsors {s}? | who is the sponsor of {s}? | who pays for {s}? | who finances {s}? |
        which organisation gives money to {s}?""",
    "budget": """what is the budget of {s}? | how much can {s} spend? | how large is the budget of {s}? |
        what sum has been set aside for {s}?""",
    "coach": """who coaches {s}? | who is the coach of {s}? | who trains {s}? | who is {s}'s head coach?""",
    "home_ground": """what town is {s} from? | where does {s} play at home? | what is the home town of {s}?
        | in which town is {s} at home?""",
    "sport": """what sport does {s} compete in? | in which sport is {s} active? | which game is {s} known to
        play? | what kind of sport is played by {s}?""",
    "event_year": """when was {s}? | what year was {s}? | in what year did {s} take place? | when did {s}
        happen? | what is the date of {s}?""",
    "destination": """where was {s} headed? | where did {s} want to go? | what was the goal of {s}? | which
        island was {s} meant to reach? | what was the destination of {s}?""",
    "vessel": """what ship did {s} use? | which vessel did {s} sail on? | what was the ship of {s}? | with
        which ship did {s} set out? | what vessel carried {s}?""",
    "owner": """who owns {s}? | who is the owner of {s}? | in whose possession is {s}? | whose is {s}?""",
    "price": """what is the price of {s}? | what did {s} cost? | how much was paid for {s}? | how much money
        does {s} cost? | what price was {s} sold at?""",
    "captain": """who is the captain of {s}? | who commands {s}? | who is in command of {s}? | who is {s}'s
        skipper?""",
    "home_port": """what is {s}'s home port? | in which harbour is {s} at home? | to which port does {s}
        belong?""",
    "weight": """what is the weight of {s}? | what does {s} weigh? | how many kilograms does {s} weigh?""",
    "cargo": """what is the cargo of {s}? | what freight does {s} carry? | what goods are aboard {s}? | what
        is being shipped on {s}?""",
    "dedicatee": """who is {s} dedicated to? | for whom was {s} made? | in whose honour was {s} made?""",
    "pages": """how long is {s} in pages? | what is the page count of {s}? | how many pages long is {s}? |
        on which page does {s} end?""",
    "publisher": """who published {s}? | who is the publisher of {s}? | which house brought out {s}? | who
        issued {s}?""",
    "shelf": """what is the shelf mark of {s}? | which shelf holds {s}? | where is {s} shelved? | under what
        call number is {s} kept?""",
    "serial": """what is the serial number of {s}? | which number identifies {s}? | what number is on {s}? |
        what is {s}'s inventory number?""",
    "rooms": """what number of rooms does {s} have? | how many rooms can one count in {s}? | into how many
        rooms is {s} divided?""",
    "password": """what is the password of {s}? | what is {s}'s password? | which code does one need for
        {s}? | what must one type to get into {s}?""",
    "singer": """who sang {s}? | who is the singer of {s}? | who performed {s}? | by whom was {s} sung?""",
    "admin": """who administers {s}? | who is the administrator of {s}? | who maintains {s}?""",
    "address": """what is the address of {s}? | what is {s}'s IP address? | under which address can one
        reach {s}? | what address does {s} have?""",
    "hosts": """where is {s} kept? | what room is {s} in? | which room houses {s}? | where does {s} stand,
        in which room?""",
    "victor": """who won {s}? | who was the victor of {s}? | who gained the victory in {s}?""",
    "loser": """who lost {s}? | who was the loser of {s}? | who suffered defeat in {s}? | whose army was
        beaten in {s}?""",
    "nearest_town": """where was {s}? | what town was {s} near? | close to which town did {s} take place? |
        what is the town nearest to {s}?""",
    "cause": """what was the cause of {s}? | what led to {s}? | what set off {s}? | how did {s} come about?
        | what was to blame for {s}?""",
    "struck_place": """what town did {s} hit? | where was {s}? | in what town did {s} occur? | which place
        did {s} strike?""",
    "victims": """how many were made homeless by {s}? | how many people suffered from {s}? | what was the
        toll of {s}? | how many people did {s} affect?""",
    "ingredient": """what is the main ingredient of {s}? | what is in {s}? | what does one need above all
        for {s}? | from what is {s} made?""",
    "cook": """who invented {s}? | who came up with {s}? | who created {s}? | who first made {s}? | whose
        invention is {s}?""",
    "cooking_time": """how long does {s} take? | what is the cooking time of {s}? | for how long does one
        cook {s}? | how many minutes does {s} need?""",
    "departure": """what is the departure time of {s}? | at what hour does {s} leave? | when does {s}
        depart? | what time is {s} scheduled to leave?""",
    "platform": """what is the platform of {s}? | where does {s} depart, at which platform? | what platform
        does {s} use? | which platform is for {s}?""",
    "terminus": """what is the destination of {s}? | to which town does {s} go? | where does {s} end its
        journey?""",
    "driver": """who drives {s}? | who is the driver of {s}? | who operates {s}? | by whom is {s}
        driven?""",
    "deadline": """what is the deadline of {s}? | by when does {s} have to be done? | by what date must {s}
        be delivered? | when does the time for {s} run out?""",
    "manager": """who manages {s}? | who is the manager of {s}? | who runs {s}? | who leads {s}? | whose
        project is {s}?""",
    "client": """who is the client of {s}? | who ordered {s}? | who commissioned {s}? | for which customer
        is {s} done? | whom is {s} for?""",
}

_FACTS: dict[str, str] = {
    "birthplace": """{s} is from {o}. | {p} hometown is {o}. | {s}, a native of {o}, has never forgotten it.
        | born in {o}, {s} went far. | {o} is where {p} life began. | {s} (born in {o}) is well known.""",
    "residence": """{s} is living in {o}. | {s} currently lives in {o}. | {s} makes {o} home. | {o} is home
        to {m}. | {s}, who lives in {o}, is seldom away. | at present {s} lives in {o}.""",
    "employer": """{s} is with {o}. | {s} took a job at {o}. | {o} gave {m} a job. | {s} is on the payroll
        of {o}. | {s}, an employee of {o}, is well liked.""",
    "birth_year": """{s} dates from {o}. | {p} year of birth is {o}. | {s} was a child of the year {o}. |
        {o} was the year of {p} birth.""",
    "profession": """{s} is {a} by trade. | {s} makes a living as {a}. | {s} is employed as {a}. | {s} has
        always been {a}. | as {a}, {s} is much in demand. | {p} job is that of {a}.""",
    "favourite_food": """{p} favourite food is {o}. | {s} loves {o}. | {o} is what {s} likes to eat most. |
        {s} enjoys {o} above everything. | no food pleases {m} more than {o}.""",
    "favourite_animal": """{p} favourite animal is the {o}. | {s} is fond of the {o}. | above all animals
        {s} loves the {o}. | the {o} is the creature {s} likes most.""",
    "instrument": """{s} is a player of the {o}. | {s} can play the {o}. | {s} took up the {o}. | the {o} is
        what {s} plays.""",
    "favourite_colour": """{p} favourite colour is {o}. | {s} likes {o} most. | {s} is fond of the colour
        {o}. | {o} is the colour {s} would choose.""",
    "teacher": """{s} learnt from {o}. | {o} gave {m} lessons. | {p} lessons were given by {o}. | {s} was
        schooled by {o}.""",
    "spouse": """{s} is the spouse of {o}. | {s} got married to {o}. | {o} is {p} spouse. | {s} and {o} are
        a married couple. | {s} wed {o}.""",
    "rival": """{s} competes with {o}. | {o} is {p} rival. | {s} and {o} are rivals. | {s} has long tried to
        outdo {o}.""",
    "mentor": """{o} was {p} mentor. | {s} had a mentor in {o}. | {o} took {m} under a kind wing. | {s}
        followed the advice of {o}.""",
    "hobby": """{p} hobby is {o}. | {s} is keen on {o}. | {s} enjoys {o}. | {s} likes nothing better than
        {o}. | after work {s} turns to {o}.""",
    "alma_mater": """{s} went to {o}. | {s} attended {o}. | {s} was a student at {o}. | {s} is a graduate of
        {o}. | {o} is where {s} studied.""",
    "citizenship": """{s} is a citizen of {o}. | {s} holds the citizenship of {o}. | {s} has a passport of
        {o}. | {s} is a national of {o}.""",
    "pet": """{s} owns {a}. | {s} lives with {a}. | {p} pet is {a}. | {a} keeps {m} company.""",
    "language": """{s} speaks {o}. | {s} is a native speaker of {o}. | {p} native language is {o}. | {o} was
        the first language {s} learnt.""",
    "allergy": """{s} is allergic to {o}. | {s} cannot eat {o}. | {o} makes {m} ill. | {s} must keep away
        from {o}.""",
    "assistant": """{o} is {p} assistant. | {s} is helped by {o}. | {s} relies on {o} as an assistant. | {o}
        works as {p} assistant.""",
    "licence_plate": """{s} drives a car with the plate {o}. | {p} car has the number {o}. | the plate of
        {p} car reads {o}.""",
    "extension": """{s} can be reached at extension {o}. | {p} extension is {o}. | call {o} to talk to {m}.
        | {s} answers the phone at {o}.""",
    "office": """{p} office is room {o}. | {s} works in room {o}. | {s} has an office in room {o}. | room
        {o} is where {s} works.""",
    "height": """{s} is {o} tall. | {p} height is {o}. | {s} measures {o}. | {s} stands {o} high.""",
    "collects": """{s} collects {o}. | {s} is a collector of {o}. | {s} owns a fine collection of {o}. | {p}
        collection consists of {o}.""",
    "heir": """{o} is {p} heir. | {o} will inherit from {m}. | {s} leaves all to {o}. | {s} made {o} sole
        heir.""",
    "region": """{s} is in {o}. | {s} is situated in {o}. | {s} is part of {o}. | {s} belongs to {o}. | {s},
        in {o}, is worth a visit.""",
    "mayor": """{o} is the mayor of {s}. | {s} has {o} for a mayor. | {p} mayor is {o}. | the people of {s}
        elected {o} mayor.""",
    "on_river": """{s} is on {o}. | {s} lies beside {o}. | {o} runs by {s}. | {s} was built on the banks of
        {o}.""",
    "population": """{s} has a population of {o}. | {o} people live in {s}. | {p} population is {o}.""",
    "known_for": """{s} is famous for {o}. | {s} is best known for its {o}. | {o} made {s} famous. | many
        know {s} for its {o}.""",
    "founder": """{s} was founded by {o}. | {o} founded {s}. | {o} started {s}. | {o} set up {s}. | {p}
        founder is {o}.""",
    "founded_year": """{s} was founded in {o}. | {s} started in {o}. | {s} has existed since {o}.""",
    "emblem": """{p} emblem is the {o}. | the {o} stands for {s}. | {s} has the {o} on its coat of arms. |
        {s} bears the {o} as its symbol.""",
    "discoverer": """{s} was discovered by {o}. | {o} discovered {s}. | {o} was the first to find {s}. | {s}
        was found by {o}.""",
    "area": """{s} covers {o}. | {p} area is {o}. | {s} is {o} in size.""",
    "peak": """the highest point of {s} is {o}. | {o} is the tallest mountain in {s}. | {p} highest mountain
        is {o}. | {o} towers over {s}.""",
    "capital": """the capital of {s} is {o}. | {o} is the capital of {s}. | {s} is governed from {o}. | {p}
        capital is {o}.""",
    "ruler": """{s} is ruled by {o}. | {o} rules {s}. | {o} reigns over {s}. | {p} ruler is {o}. | {s} is
        under the rule of {o}.""",
    "currency": """the currency of {s} is the {o}. | in {s} one pays with the {o}. | {s} uses the {o}. | {p}
        money is the {o}.""",
    "motto": """the motto of {s} is "{o}". | {p} motto is "{o}". | {s} chose "{o}" as its motto. | "{o}" is
        the motto of {s}.""",
    "maker": """{s} is the work of {o}. | {o} made {s}. | {o} is the one who created {s}.""",
    "made_year": """{s} is from {o}. | {s} dates from {o}. | {s} was made in {o}. | {s} was completed in
        {o}.""",
    "location": """{s} is in {o}. | {s} is located in {o}. | {o} has {s}. | {s}, in {o}, draws many
        visitors.""",
    "length": """{s} is {o} long. | {s} has a length of {o}. | {p} length is {o}. | {s} stretches for
        {o}.""",
    "material": """{s} is made of {o}. | {o} was used for {s}. | {s} is of {o}.""",
    "colour": """{s} is {o}. | {p} colour is {o}. | {s} has the colour {o}. | {o} is the colour of {s}.""",
    "mouth": """{s} flows into {o}. | {s} ends in {o}.""",
    "origin": """{s} comes from {o}. | {s} is from {o}. | {s} originated in {o}. | {s} has its origin in
        {o}.""",
    "habitat": """{s} grows in {o}. | {s} likes {o}. | {p} habitat is {o}.""",
    "bloom": """{s} blooms in {o}. | {s} is in flower in {o}. | one sees {s} bloom in {o}. | {p} flowers
        appear in {o}.""",
    "remedy": """{s} is used against {o}. | {s} is good for {o}. | {s} relieves {o}. | people take {s} for
        {o}.""",
    "leader": """{s} is led by {o}. | {o} leads {s}. | {o} is in charge of {s}. | {o} heads {s}. | {p}
        leader is {o}.""",
    "seat": """{s} is based in {o}. | {s} is headquartered in {o}. | {p} headquarters are in {o}.""",
    "members": """{s} has {o} members. | {o} people are members of {s}. | {s} counts {o} members. | {p}
        membership is {o}.""",
    "makes": """{s} makes {o}. | {s} produces {o}. | {s} is in the business of {o}. | {s} trades in {o}.""",
    "month": """{s} takes place in {o}. | {s} is held in {o}. | {s} is celebrated in {o}. | every {o} there
        is {s}.""",
    "dish": """at {s} people eat {o}. | {o} is eaten at {s}. | {s} is known for serving {o}. | visitors of
        {s} eat {o}.""",
    "sponsor": """{s} is sponsored by {o}. | {o} sponsors {s}. | {o} pays for {s}. | {s} is paid for by {o}.
        | {p} sponsor is {o}.""",
    "budget": """{s} has a budget of {o}. | {p} budget is {o}. | {o} was set aside for {s}. | {s} can spend
        {o}.""",
    "coach": """{s} is coached by {o}. | {o} coaches {s}. | {o} trains {s}. | {p} coach is {o}.""",
    "home_ground": """{s} is from {o}. | {s} plays at home in {o}. | {p} home town is {o}. | {s} is at home
        in {o}.""",
    "sport": """{s} plays {o}. | {s} competes in {o}. | {p} sport is {o}. | {o} is what {s} plays.""",
    "event_year": """{s} took place in {o}. | {s} happened in {o}. | {s} was in {o}. | in {o} came {s}.""",
    "destination": """{s} was headed for {o}. | {s} set out for {o}. | {p} goal was {o}. | {s} was bound for
        {o}.""",
    "vessel": """{s} used {o}. | {o} was the ship of {s}. | {s} set out with {o}.""",
    "owner": """{s} belongs to {o}. | {o} owns {s}. | {p} owner is {o}.""",
    "price": """{s} cost {o}. | {s} was sold for {o}. | {p} price is {o}. | {o} was paid for {s}.""",
    "captain": """{o} is the captain of {s}. | {s} is commanded by {o}. | {o} commands {s}. | {p} captain is
        {o}. | {s} sails under {o}.""",
    "home_port": """{p} home port is {o}. | {s} is at home in {o}. | {s} sails from {o}.""",
    "weight": """{s} weighs {o}. | {p} weight is {o}. | {s} has a weight of {o}. | at {o} {s} is no light
        thing.""",
    "cargo": """{s} carries {o}. | {p} cargo is {o}. | {s} is loaded with {o}. | {o} is aboard {s}.""",
    "dedicatee": """{s} is dedicated to {o}. | {s} was made for {o}. | {s} was made in honour of {o}.""",
    "pages": """{s} has {o} pages. | {s} is {o} pages long. | {p} page count is {o}. | {s} ends after {o}
        pages.""",
    "publisher": """{s} was published by {o}. | {o} published {s}. | {o} brought out {s}. | {p} publisher is
        {o}.""",
    "shelf": """{s} is on shelf {o}. | {s} stands on shelf {o}. | {p} shelf mark is {o}. | look for {s} on
        shelf {o}.""",
    "serial": """{s} has the serial number {o}. | {p} serial number is {o}. | the number {o} is on {s}. |
        {s} bears the number {o}.""",
    "rooms": """{s} has {o} rooms. | there are {o} rooms in {s}. | {s} is divided into {o} rooms. | {p}
        rooms number {o}.""",
    "password": """the password of {s} is {o}. | {p} password is {o}. | one gets into {s} with {o}. | {s}
        opens with {o}.""",
    "singer": """{s} was sung by {o}. | {o} sang {s}. | {s} was performed by {o}. | {p} singer is {o}.""",
    "admin": """{s} is administered by {o}. | {o} administers {s}. | {o} looks after {s}. | {p}
        administrator is {o}.""",
    "address": """the address of {s} is {o}. | {s} has the address {o}. | {s} can be reached at {o}. | {p}
        IP address is {o}.""",
    "hosts": """{s} is in room {o}. | {s} is kept in room {o}. | room {o} houses {s}. | {p} room is {o}.""",
    "victor": """{o} won {s}. | {o} was the victor of {s}. | {o} triumphed in {s}.""",
    "loser": """{o} lost {s}. | {s} was lost by {o}. | {o} was beaten in {s}. | {o} suffered defeat in
        {s}.""",
    "nearest_town": """{s} took place near {o}. | {s} was fought near {o}. | {s} was close to {o}. | {o} is
        the town nearest to {s}.""",
    "cause": """{s} was caused by {o}. | {p} cause was {o}. | {o} led to {s}. | {s} came about through
        {o}.""",
    "struck_place": """{s} struck {o}. | {s} occurred in {o}. | {s} hit {o}. | {s} happened in {o}.""",
    "victims": """{s} affected {o} people. | {s} made {o} people homeless. | {o} people suffered from {s}. |
        {p} toll was {o}.""",
    "ingredient": """{s} is made with {o}. | {p} main ingredient is {o}. | {s} is made from {o}. | for {s}
        one needs {o}.""",
    "cook": """{s} was invented by {o}. | {o} invented {s}. | {o} came up with {s}. | {s} was created by
        {o}.""",
    "cooking_time": """{s} takes {o}. | {s} takes {o} to cook. | {p} cooking time is {o}. | {s} needs
        {o}.""",
    "departure": """{s} departs at {o}. | {p} departure is at {o}. | {s} is scheduled to leave at {o}.""",
    "platform": """{s} leaves from platform {o}. | {p} platform is {o}. | {s} uses platform {o}.""",
    "terminus": """{s} goes to {o}. | {p} destination is {o}. | {s} ends in {o}. | the last stop of {s} is
        {o}.""",
    "driver": """{s} is driven by {o}. | {o} drives {s}. | {o} operates {s}. | {p} driver is {o}.""",
    "deadline": """{s} is due on {o}. | {p} deadline is {o}. | {s} must be done by {o}. | {s} has to be
        finished by {o}.""",
    "manager": """{s} is managed by {o}. | {o} manages {s}. | {o} is in charge of {s}. | {p} manager is
        {o}.""",
    "client": """{s} was ordered by {o}. | {o} ordered {s}. | {s} is done for {o}. | {p} client is {o}.""",
}


QUESTIONS = _QUESTIONS, phrasings_asked.QUESTIONS
FACTS = _FACTS, phrasings_told.FACTS


def with_further(relation: Relation) -> Relation:
    """A relation that is asked for and told in these ways, too."""
    questions = relation.questions.with_composed(_of(relation, QUESTIONS), ())
    return replace(
        relation,
        questions=questions,
        nested_questions=questions.without_genitive(),
        facts=relation.facts.with_composed(_of(relation, FACTS), ()),
    )


def _of(relation: Relation, tables: Iterable[dict[str, str]]) -> list[str]:
    return [lowered(text) for table in tables for text in split_templates(table.get(relation.name, ""))]
