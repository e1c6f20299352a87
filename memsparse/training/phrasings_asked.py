"""Still further ways to ask for what the tables of relations hold, by words and turns that no other has.

For training alone, as `phrasings_further`, which joins them to its own.
"""

QUESTIONS: dict[str, str] = {
    "birthplace": """which town is {s} a native of? | do you know where {s} was born? | in which town did
        {s} first see the light of day? | what I would like to know is {s}'s place of birth. | tell me the
        birthplace of {s}. | what town can claim {s} as a native son or daughter? | where was {s} delivered
        as a baby? | where was it that {s} was born? | which town stands as the birthplace on {s}'s birth
        certificate? | what town does {s} hail from by birth?""",
    "residence": """do you know where {s} lives? | tell me where {s} lives these days. | which town is {s} a
        resident of? | name {s}'s place of residence. | in which town is {s}'s house? | where would I find
        {s} at home? | what town is {s} domiciled in? | where are {s}'s present lodgings? | to which town
        has {s} moved? | may I ask which town {s} lives in?""",
    "employer": """who signs {s}'s pay cheques? | tell me who {s} works for. | do you know {s}'s employer? |
        which organization employs {s}? | name the company that {s} works for. | in whose service is {s}? |
        where does {s} earn a salary?""",
    "birth_year": """do you know the year in which {s} was born? | tell me the year of {s}'s birth. | what
        was the year when {s} came into the world? | which birth year is given for {s}? | name the year {s}
        was born. | what year did {s} arrive in this world? | what I would like to know is what year {s} was
        born. | what is the year on {s}'s birth certificate?""",
    "profession": """tell me what {s} works as. | which trade does {s} ply? | as what is {s} employed? | do
        you know {s}'s occupation? | which profession did {s} choose? | what career does {s} have? | name
        the trade that {s} practises. | what has {s} trained to be? | what is the calling of {s}? | which
        craft does {s} follow?""",
    "favourite_food": """which meal does {s} love best? | what is {s}'s favorite dish? | tell me what {s}
        most likes to eat. | do you know {s}'s favourite meal? | which food would {s} eat every day? | what
        should I cook to please {s}? | what food can {s} never resist? | what makes {s}'s mouth water? |
        name the food that {s} likes best. | what food does {s} crave? | which food does {s} relish above
        all?""",
    "favourite_animal": """what is {s}'s favorite animal? | which beast does {s} love best? | do you know
        {s}'s favourite creature? | of all animals, which one does {s} love? | name the animal that {s}
        likes most. | what creature holds a special place in {s}'s heart? | which animal would {s} most like
        to see at the zoo? | what animal is {s} most taken with?""",
    "instrument": """tell me what instrument {s} plays. | do you know which instrument {s} has mastered? |
        what does {s} play in the orchestra? | which instrument does {s} practise every day? | what
        instrument did {s} take up? | on which instrument does {s} perform? | which instrument is {s}
        learning? | what musical instrument does {s} own?""",
    "favourite_colour": """what is {s}'s favorite color? | tell me {s}'s favourite colour. | do you know
        which colour {s} likes best? | which color does {s} love? | name the colour that {s} prefers. | what
        colour pleases {s} most? | which shade is dearest to {s}? | in which colour does {s} love to dress?
        | of all the colors, which is {s}'s favorite? | which hue does {s} favour?""",
    "teacher": """do you know who {s}'s teacher was? | who was {s}'s tutor? | in whose class was {s}?""",
    "spouse": """who is {s}'s better half? | tell me the name of {s}'s husband or wife. | do you know whom
        {s} married? | with whom did {s} exchange wedding vows? | name {s}'s spouse. | who stood at the
        altar with {s}? | who did {s} wed? | whom did {s} take in marriage? | who tied the knot with
        {s}?""",
    "rival": """who does {s} compete against? | who is {s}'s arch-rival? | tell me who {s}'s rival is. | do
        you know the rival of {s}? | name {s}'s great adversary. | with whom does {s} vie? | against whom
        does {s} contend? | who is {s} always trying to beat? | with whom does {s} have a rivalry? | who
        counts as the chief opponent of {s}?""",
    "mentor": """tell me who {s}'s mentor was. | do you know who guided {s}? | whose protégé was {s}? | who
        guided {s} in the early years? | to whom did {s} turn for guidance? | who showed {s} the ropes? |
        under whose wing was {s}?""",
    "hobby": """how does {s} pass the time? | what does {s} do in leisure hours? | tell me about {s}'s
        pastime, what is it? | do you know {s}'s hobby? | name {s}'s favourite pastime. | what does {s} do
        for pleasure? | with what does {s} while away the evenings? | which leisure activity does {s} enjoy?
        | what is {s} into when not working? | to what does {s} devote free time?""",
    "alma_mater": """which school did {s} graduate from? | tell me where {s} was educated. | do you know
        {s}'s alma mater? | name the school {s} attended. | from which institution did {s} graduate? | what
        is the old school of {s}? | which college counts {s} among its graduates? | which school is {s} an
        alumnus or alumna of?""",
    "citizenship": """tell me {s}'s citizenship. | do you know {s}'s nationality? | which country issued
        {s}'s passport? | name the country {s} is a citizen of. | what passport does {s} hold? | which
        country's passport does {s} travel on? | what country's citizenship does {s} have? | a citizen of
        which land is {s}?""",
    "pet": """what kind of animal does {s} keep? | tell me what pet {s} has. | do you know what animal {s}
        keeps as a pet? | name the kind of pet {s} owns. | which animal shares {s}'s home? | what sort of
        pet does {s} have? | what animal does {s} feed every morning? | what pet is waiting for {s} at home?
        | which animal does {s} keep at home?""",
    "language": """what is {s}'s mother tongue? | which language did {s} grow up speaking? | tell me {s}'s
        native tongue. | do you know what language {s} speaks? | name the language {s} speaks. | in which
        language does {s} talk? | what is the mother tongue of {s}? | which language did {s} speak as a
        child? | what language does {s} speak with family?""",
    "allergy": """to what does {s} have an allergy? | tell me what {s} is allergic to. | do you know of
        {s}'s allergy, what is it to? | name {s}'s allergy. | which food should never be served to {s}? |
        what gives {s} an allergic reaction? | what food must be kept away from {s}? | what brings {s} out
        in a rash? | which food has {s} been told by the doctor to avoid?""",
    "assistant": """who works as {s}'s assistant? | do you know the name of {s}'s assistant? | name the
        assistant of {s}. | who is {s}'s right hand? | who keeps {s}'s diary as an assistant? | who is {s}'s
        aide? | on whose assistance does {s} rely?""",
    "licence_plate": """what is {s}'s license plate? | what is the registration of {s}'s car? | tell me the
        plate number of {s}'s car. | do you know {s}'s number plate? | what does {s}'s number plate say? |
        which license plate does {s} have? | under what number is {s}'s car registered? | name the number
        plate of {s}.""",
    "extension": """what is {s}'s phone extension? | tell me {s}'s extension. | on which extension can I
        call {s}? | do you know the extension of {s}? | at what extension does {s} pick up the phone? | what
        number do I ring to get {s}?""",
    "office": """in which room is {s}'s office? | tell me {s}'s office number. | do you know which office
        {s} has? | which room do I go to for {s}? | what is the number of {s}'s office? | in what office
        does {s} sit? | which office is {s}'s?""",
    "height": """do you know the height of {s}? | what height was measured for {s}? | how many centimetres
        or metres tall is {s}? | give me the height of {s}.""",
    "collects": """tell me what {s} collects. | do you know what {s} is a collector of? | what is in {s}'s
        collection? | which objects has {s} been collecting? | name the things {s} collects. | what fills
        the shelves of {s}'s collection? | of what does {s} have a collection? | what is {s} always adding
        to a collection?""",
    "heir": """who will inherit {s}'s fortune? | to whom will {s} leave everything? | tell me who {s}'s heir
        is. | do you know who stands to inherit from {s}? | name the heir of {s}. | who will come into {s}'s
        estate? | who is next in line to inherit from {s}?""",
    "region": """which region is {s} part of? | tell me which region {s} is in. | do you know what region
        {s} lies in? | name the region of {s}. | in which region would I find {s}? | of which region is {s}
        a part? | in what region does {s} lie? | within which region is {s} situated? | to find {s}, which
        region should one travel to?""",
    "mayor": """who serves as mayor of {s}? | tell me who the mayor of {s} is. | do you know the mayor of
        {s}? | name {s}'s mayor. | who wears the mayor's chain in {s}? | who sits in the mayor's chair at
        {s}? | who is in charge at {s}'s town hall?""",
    "on_river": """which river flows through {s}? | what river runs through {s}? | tell me which river {s}
        lies on. | do you know the river that {s} stands on? | name the river that passes {s}. | on which
        river is {s} situated? | on what river was {s} built? | which river do the bridges of {s} cross? |
        the water of which river passes {s}? | what is {s}'s river called?""",
    "population": """tell me how many inhabitants {s} has. | do you know the population of {s}? | what is
        {s}'s population? | how many residents are there in {s}? | how many souls does {s} count? | give the
        number of people living in {s}.""",
    "known_for": """tell me what {s} is known for. | do you know what {s} is famous for? | what is {s}'s
        claim to fame? | to what does {s} owe its fame? | name the thing {s} is famous for. | what is the
        pride of {s}? | what has {s} become celebrated for?""",
    "founder": """do you know the founder of {s}? | to whom does {s} owe its foundation? | who got {s} off
        the ground? | who called {s} into existence? | who launched {s} originally?""",
    "founded_year": """which year saw the founding of {s}? | tell me when {s} was founded. | do you know the
        year {s} was established? | name the year of {s}'s foundation. | since what year has {s} been
        around? | how far back does the founding of {s} go, which year? | in which year was {s} set up? |
        when was {s} first established? | from which year does {s}'s foundation date?""",
    "emblem": """which animal is {s}'s emblem? | tell me what animal {s} has as its emblem. | do you know
        the emblem of {s}? | name {s}'s heraldic animal. | what creature adorns the flag of {s}? | by which
        animal is {s} represented? | which animal does {s} have on its crest? | what beast appears on the
        arms of {s}? | what animal symbol does {s} use? | which creature decorates the shield of {s}?""",
    "discoverer": """do you know who {s} was discovered by? | who is credited with discovering {s}? | who
        first came across {s}? | whose discovery is {s}?""",
    "area": """tell me the area of {s}. | do you know how big {s} is? | how much land does {s} take up? |
        what is {s}'s surface area? | give the size of {s} in square kilometres. | how extensive is {s}?""",
    "peak": """what is the highest mountain of {s}? | tell me the highest peak of {s}. | do you know the
        tallest mountain in {s}? | name {s}'s highest peak. | which summit rises above all others in {s}? |
        what is the top of {s} called? | which mountain would one climb to stand highest in {s}?""",
    "capital": """do you know the capital of {s}? | name {s}'s capital. | what town is {s} governed from? |
        in which town does {s}'s parliament meet? | what is the seat of government of {s}? | which is the
        capital town of {s}? | in which city is the government of {s} housed?""",
    "ruler": """do you know who the ruler of {s} is? | name the ruler of {s}. | who wears the crown of {s}?
        | who is sovereign in {s}?""",
    "currency": """tell me the currency of {s}. | do you know what money is used in {s}? | name {s}'s
        currency. | what coins does one need in {s}? | in what currency are prices given in {s}? | which
        money do I need to shop in {s}? | what is the monetary unit of {s}? | in which currency do the
        people of {s} pay?""",
    "motto": """what is {s}'s motto? | tell me the motto of {s}. | do you know {s}'s motto? | what words are
        written under the arms of {s}? | quote the motto of {s}. | by what motto does {s} go? | what is the
        watchword of {s}? | how does the motto of {s} run? | what does the motto of {s} say?""",
    "maker": """do you know who made {s}? | name the creator of {s}. | who is behind {s}, whose creation is
        it? | to whom do we owe {s}? | who is credited with making {s}?""",
    "made_year": """what year is given for the making of {s}? | tell me when {s} was made. | do you know
        when {s} was finished? | in which year was {s} created? | name the year in which {s} was made. |
        which year saw the completion of {s}? | how far back does {s} date? | to which year is {s} dated? |
        when did the work on {s} end? | in what year was {s} made?""",
    "location": """in which town can one see {s}? | tell me where {s} is. | do you know where {s} is
        located? | name the town where {s} stands. | which town do I visit to see {s}? | in what town does
        {s} stand? | what is the location of {s}? | whereabouts is {s}? | in which town is {s} to be found?
        | to which town must I travel to see {s}?""",
    "length": """tell me how long {s} is. | do you know the length of {s}? | over what distance does {s}
        extend? | give the length of {s}.""",
    "material": """tell me what {s} is made of. | do you know what {s} was made from? | which material is
        {s} made from? | of what material is {s}? | out of what was {s} made? | what is the material of {s}?
        | what stuff is {s} made of? | which substance is {s} made of? | what did the maker use as material
        for {s}?""",
    "colour": """tell me the colour of {s}. | do you know what color {s} is? | name the colour of {s}. | in
        what colour was {s} painted? | which color does {s} have? | what is {s}'s color? | what hue is {s}?
        | of what colour is {s}? | what shade does {s} have?""",
    "mouth": """what sea does {s} flow into? | in which sea does {s} end? | tell me which sea {s} flows
        into. | do you know where {s} reaches the sea? | name the sea that {s} empties into. | where does
        {s} discharge its waters? | which sea takes in the waters of {s}? | into which sea does {s} run? |
        in which sea does {s} have its mouth?""",
    "origin": """which region does {s} come from? | tell me where {s} originated. | do you know which region
        {s} comes from? | name the region {s} comes from. | what is {s}'s region of origin? | of which
        region is {s} a native? | from where does {s} come originally? | in which region did {s} first
        appear? | from which region does {s} hail? | what region is {s} native to?""",
    "habitat": """tell me where {s} grows. | do you know what kind of place {s} grows in? | name the habitat
        of {s}. | in what habitat does {s} thrive? | where does {s} thrive? | where should I look for {s}
        growing wild? | in what surroundings does {s} grow? | which habitat suits {s} best? | what is {s}'s
        natural habitat?""",
    "bloom": """when does {s} bloom? | which month does {s} flower in? | tell me when {s} blooms. | do you
        know when {s} is in bloom? | name the month when {s} flowers. | when does {s} come into flower? | in
        which month does {s} open its blossoms? | what is {s}'s flowering month? | when are the blossoms of
        {s} out? | at what time of year does {s} blossom?""",
    "remedy": """what is {s} a remedy for? | tell me what {s} is a remedy for. | do you know what ailment
        {s} helps with? | name the complaint that {s} eases. | for which ailment is {s} prescribed? | which
        ailment is treated with {s}? | what does a tea of {s} cure? | what do healers use {s} for?""",
    "leader": """do you know who heads {s}? | name the leader of {s}. | who is the head of {s}? | who calls
        the shots at {s}? | who presides over {s}?""",
    "seat": """which town is home to the headquarters of {s}? | tell me where {s} has its head office. | do
        you know where {s} is headquartered? | in which town is the head office of {s}? | where does {s}
        have its main office? | what is the seat of {s}? | where are {s}'s headquarters? | in which town did
        {s} set up its headquarters?""",
    "members": """how many people belong to {s}? | tell me how many members {s} has. | do you know the
        number of {s}'s members? | how many have joined {s}? | how many names are on the membership list of
        {s}? | give the number of members of {s}.""",
    "makes": """which product does {s} manufacture? | what is manufactured by {s}? | tell me what {s} makes.
        | do you know what {s} produces? | name the product of {s}. | what goods come from {s}? | what does
        {s} turn out? | what does {s} manufacture? | what comes out of the workshops of {s}? | what is {s}'s
        line of business?""",
    "month": """which month is {s} held in? | in what month does {s} take place? | tell me which month {s}
        is in. | do you know when {s} is held? | name the month of {s}. | when does {s} come round each
        year? | in what month do people celebrate {s}? | when is {s} held every year? | which month should I
        come in for {s}?""",
    "dish": """what is the traditional food of {s}? | do you know which dish is eaten at {s}? | name the
        dish that belongs to {s}. | what do the cooks serve at {s}? | what dish do visitors taste at {s}? |
        what is on the table at {s}? | what is the special dish of {s}? | what food is cooked for {s}? |
        with which dish is {s} celebrated?""",
    "sponsor": """who funds {s}? | do you know the sponsor of {s}? | name {s}'s sponsor. | who foots the
        bill for {s}? | who provides the money for {s}? | whose money keeps {s} going? | who backs {s}
        financially? | who bankrolls {s}? | with whose sponsorship is {s} held?""",
    "budget": """how much money does {s} have to spend? | tell me the budget of {s}. | do you know how big
        {s}'s budget is? | what is {s}'s budget? | how much has been budgeted for {s}? | what funds are
        available for {s}? | how much money was allotted to {s}? | what sum does the budget of {s} come to?
        | how much money has been granted to {s}? | give the size of {s}'s budget.""",
    "coach": """who is the trainer of {s}? | do you know {s}'s coach? | name the coach of {s}. | who
        prepares {s} for matches? | under which coach does {s} train? | who gives the team talk at {s}? |
        whom does {s} have as coach? | who stands on the touchline as coach of {s}? | who is responsible for
        training {s}?""",
    "home_ground": """where does {s} play its home matches? | which town is {s}'s home ground in? | tell me
        where {s} plays at home. | do you know the home town of {s}? | name the town where {s} plays its
        home games. | in which town is the home ground of {s}? | what town hosts the home games of {s}? |
        for which town does {s} play? | where is {s}'s home stadium?""",
    "sport": """what game does {s} play? | tell me what sport {s} plays. | do you know which sport {s}
        competes in? | name {s}'s sport. | what does {s} play on the field? | in what sport does {s} take
        part? | what is the sport of {s}? | which game does {s} train for? | {s} is a team in which
        sport?""",
    "event_year": """which year did {s} happen in? | in which year was {s}? | tell me when {s} took place. |
        do you know what year {s} was? | name the year of {s}. | what is the year of {s}? | how long ago was
        {s}, in what year? | in which year did {s} occur? | when did {s} come to pass? | which year saw {s}?
        | what year does history give for {s}? | when was it that {s} took place?""",
    "destination": """what was {s}'s destination? | tell me where {s} was headed. | do you know where {s}
        was going? | name the place {s} set out for. | where was {s} supposed to go? | toward which island
        was {s} heading? | for what place was {s} bound? | what island was {s} trying to reach? | which
        island did {s} make for?""",
    "vessel": """tell me which ship {s} used. | do you know the ship of {s}? | name the vessel of {s}. |
        what was the name of {s}'s ship? | which vessel was used by {s}? | on board what vessel did {s} set
        sail? | which ship took the members of {s} to sea?""",
    "owner": """do you know whose property {s} is? | who has {s} in their possession? | who is the rightful
        owner of {s}? | who can call {s} their own?""",
    "price": """do you know how much {s} cost? | name the price of {s}. | what was paid for {s}? | how much
        did {s} go for? | what would I have to pay for {s}? | what is {s}'s price? | what does the price tag
        on {s} say?""",
    "captain": """do you know {s}'s captain? | name the captain of {s}. | who is the master of {s}? | who
        stands on the bridge of {s} as captain? | who is skipper of {s}?""",
    "home_port": """what is the home port of {s}? | which port does {s} sail from? | tell me {s}'s home
        port. | do you know which port {s} belongs to? | name the home port of {s}. | in which port is {s}
        registered? | to which harbour does {s} return? | at which port is {s} based? | out of which port
        does {s} sail? | where does {s} moor between voyages?""",
    "weight": """tell me how heavy {s} is. | do you know the weight of {s}? | what is {s}'s weight? | give
        the weight of {s}. | what does {s} bring to the scales?""",
    "cargo": """tell me what cargo {s} carries. | do you know what {s} is carrying? | name the cargo of {s}.
        | what is {s} laden with? | with what is {s} loaded? | which goods does {s} transport? | what is
        {s}'s freight?""",
    "dedicatee": """whose name is in the dedication of {s}? | tell me who {s} is dedicated to. | do you know
        to whom {s} was dedicated? | to whom has {s} been dedicated? | who is honoured by the dedication of
        {s}? | to whose memory is {s} dedicated? | who is the dedicatee of {s}? | whom does {s} honor?""",
    "pages": """tell me how many pages {s} has. | do you know the number of pages in {s}? | what number of
        pages does {s} run to? | how many pages must one read to finish {s}?""",
    "publisher": """which publisher brought out {s}? | do you know who published {s}? | what is {s}'s
        publishing house? | with which publisher did {s} appear? | who put {s} into print? | which
        publishing house issued {s}? | under whose imprint did {s} appear?""",
    "shelf": """which shelf is {s} on? | on what shelf can I find {s}? | tell me which shelf {s} is on. | do
        you know the shelf of {s}? | name the shelf that holds {s}. | on which shelf does {s} stand? | at
        what shelf mark can {s} be found? | what is {s}'s shelf mark? | on which shelf should I look for
        {s}?""",
    "serial": """what is {s}'s serial number? | tell me the serial number of {s}. | do you know the serial
        number of {s}? | which serial number does {s} have? | what number is stamped on {s}? | under what
        serial number is {s} listed? | read me the serial number of {s}. | which serial number does {s}
        bear? | what inventory number was given to {s}?""",
    "rooms": """tell me how many rooms {s} has. | do you know the number of rooms in {s}? | what is the
        number of rooms in {s}? | how many rooms does {s} contain? | how many rooms must one clean in {s}? |
        with how many rooms was {s} built? | of how many rooms does {s} consist?""",
    "password": """tell me the password for {s}. | do you know the password of {s}? | how do I log in to
        {s}, with which password? | which password is set for {s}? | give me the password to {s}. | what is
        the secret word for {s}? | with what password does one enter {s}? | which password do I need for
        {s}?""",
    "singer": """who sings {s}? | do you know who sings {s}? | name the singer of {s}. | who is heard
        singing {s}? | who lent their voice to {s}? | which singer performed {s}?""",
    "admin": """who is {s}'s administrator? | do you know the administrator of {s}? | name the admin of {s}.
        | who takes care of {s} as administrator? | who has administrator rights on {s}? | whom do I call
        when {s} is down?""",
    "address": """which IP address does {s} have? | tell me the address of {s}. | do you know {s}'s IP
        address? | at what address can {s} be reached? | which address was assigned to {s}? | what is the
        network address of {s}? | under what IP does {s} answer? | what address do I ping to reach {s}? | to
        which address does {s} respond?""",
    "hosts": """tell me which room {s} is in. | do you know what room {s} stands in? | in what room is {s}
        kept? | name the room where {s} is kept. | in which room was {s} set up? | which room do I go to if
        I need {s}? | what is the room of {s}?""",
    "victor": """who emerged victorious from {s}? | do you know who won {s}? | name the winner of {s}. | who
        came out on top in {s}? | to whom went the victory in {s}? | which side won {s}? | whose army won
        {s}?""",
    "loser": """do you know who was beaten in {s}? | name the loser of {s}. | which side lost {s}? | who
        came off worst in {s}? | whose army was defeated in {s}? | who was vanquished in {s}?""",
    "nearest_town": """near which town was {s}? | which town is closest to the site of {s}? | tell me which
        town {s} took place near. | do you know near which town {s} was fought? | name the town near {s}. |
        outside which town was {s} fought? | which town was nearest to {s}? | near what town did the armies
        meet in {s}? | in the neighbourhood of which town was {s} fought? | what town lies near the
        battlefield of {s}?""",
    "cause": """tell me what caused {s}. | do you know why {s} happened? | name the cause of {s}. | what
        brought about {s}? | by what was {s} caused? | what gave rise to {s}? | what triggered {s}? | what
        lay behind {s}? | from what did {s} arise?""",
    "struck_place": """what place was hit by {s}? | tell me which town {s} struck. | do you know where {s}
        struck? | name the town that was hit by {s}. | which town suffered {s}? | what town did {s}
        devastate? | which town was damaged by {s}? | in which town did {s} do its damage? | where did {s}
        hit?""",
    "victims": """how many victims did {s} claim? | tell me how many people {s} affected. | do you know the
        number of victims of {s}? | how many victims were there in {s}? | to how many people did {s} bring
        harm? | what was the number of {s}'s victims? | how many were hurt by {s}?""",
    "ingredient": """tell me what the main ingredient of {s} is. | do you know what is in {s}? | name the
        main ingredient of {s}. | which ingredient must not be missing from {s}? | with what is {s} made? |
        what do I need to buy to make {s}? | on what ingredient is {s} based?""",
    "cook": """do you know who first cooked {s}? | name the cook who invented {s}. | who was the first to
        cook {s}? | which cook created {s}? | to which cook do we owe {s}? | who devised the recipe for {s}?
        | in whose kitchen was {s} invented?""",
    "cooking_time": """how long must {s} cook? | tell me how long {s} needs to cook. | do you know the
        cooking time of {s}? | how much time does it take to cook {s}? | after how long is {s} ready? | how
        long do I leave {s} on the stove? | what is {s}'s cooking time? | how long should {s} be cooked?""",
    "departure": """tell me when {s} departs. | do you know what time {s} goes? | what is {s}'s departure
        time? | when is {s} due to leave? | by what time must I be there to catch {s}? | at what hour does
        {s} set off? | when does {s} pull out of the station?""",
    "platform": """which platform does {s} leave from? | from what platform does {s} depart? | tell me which
        platform {s} leaves from. | do you know the platform for {s}? | at which platform does {s} stop? |
        to which platform do I go for {s}? | on which platform should I wait for {s}? | what is {s}'s
        platform?""",
    "terminus": """what is {s}'s destination? | tell me where {s} goes. | do you know which town {s} goes
        to? | name the terminus of {s}. | which town does {s} run to? | where does {s} terminate? | in which
        town does {s} end its run? | at what town does everyone get off {s}? | which town do passengers of
        {s} end up in?""",
    "driver": """who is {s}'s driver? | do you know the driver of {s}? | name the driver of {s}. | who sits
        in the driver's seat of {s}? | who is at the controls of {s}? | in whose hands are the controls of
        {s}? | who is the one driving {s}?""",
    "deadline": """by what date must {s} be finished? | tell me the deadline of {s}. | do you know when {s}
        is due? | what is {s}'s due date? | by when must {s} be completed? | what is the deadline for {s}? |
        until when is there time to finish {s}? | on what date is {s} due? | what date has been set for
        finishing {s}?""",
    "manager": """who is in charge of the work on {s}? | do you know {s}'s project manager? | name the
        manager of {s}. | who is {s}'s manager? | under whose management is {s}? | who has been put in
        charge of {s}? | to whom does the team of {s} report?""",
    "client": """for whom is {s} being done? | tell me who the client of {s} is. | do you know who ordered
        {s}? | name the client of {s}. | on whose behalf is {s} carried out? | which customer asked for {s}?
        | who is {s}'s customer? | at whose request was {s} started? | for which client is {s} being carried
        out? | who placed the order for {s}?""",
}
