"""Still further ways to tell what the tables of relations hold; for training alone, as `phrasings_asked`."""

FACTS: dict[str, str] = {
    "birthplace": """it was the town of {o} where {s} was born. | {o} was {p} birthplace. | {s} came into
        the world at {o}. | {o} is proud to be the birthplace of {s}. | {p} birth is recorded in the books
        of {o}. | {s} is a child of {o} by birth. | the town where {s} was born is {o}.""",
    "residence": """{s} has settled in {o}. | {p} house is in {o}. | {s} has moved to {o} and lives there
        still. | these days {s} resides in {o}. | {p} place of residence is {o}. | it is in {o} that {s}
        lives. | you will find {p} home in {o}.""",
    "employer": """{o} pays {p} wages. | {p} employer is {o}. | it is {o} that employs {s}. | {s} has a
        position with {o}. | {s} is in the service of {o}.""",
    "birth_year": """{s} came into the world in the year {o}. | it was in the year {o} that {s} was born. |
        {p} birth year is {o}. | the year {s} was born was {o}. | {p} life began in {o}. | {o} is given as
        the year when {s} was born. | in the year {o}, {s} was born.""",
    "profession": """{s} earns a living as {a}. | {s} trained as {a}. | {s} works as {a}. | {p} profession
        is that of {a}. | {s} became {a} at an early age. | {s} has had a long career as {a}. | by
        profession, {s} is {a}. | it is as {a} that {s} earns money.""",
    "favourite_food": """{s} could eat {o} every day. | {p} favorite dish is {o}. | {s} can never resist a
        plate of {o}. | {o} will make {p} mouth water. | cook {o} if you want to please {m}. | there is
        nothing {s} would rather eat than {o}. | {s} craves {o}. | of all foods, {s} likes {o} best. | {s}
        never says no to a helping of {o}.""",
    "favourite_animal": """{p} favorite animal is the {o}. | of all animals, {s} likes the {o} best. | the
        {o} is the animal {s} admires most. | the {o} holds a special place in {p} heart. | {s} prefers the
        {o} to every other animal. | {s} considers the {o} the finest of all creatures. | no animal delights
        {m} more than the {o}. | it is the {o} that {s} loves most among animals.""",
    "instrument": """{s} plays the {o} in an orchestra. | {s} has mastered the {o}. | {p} instrument is the
        {o}. | {s} learnt the {o} as a child. | {s} gives concerts on the {o}. | the {o} is the instrument
        that {s} plays.""",
    "favourite_colour": """{p} favorite color is {o}. | of all colours, {s} prefers {o}. | no colour pleases
        {m} more than {o}. | {s} thinks {o} the loveliest of colours. | {s} loves the color {o}. | the hue
        {s} favours is {o}. | {s} would paint everything {o} if allowed. | the colour dearest to {m} is
        {o}.""",
    "teacher": """{p} teacher was {o}. | {s} sat in the class of {o}. | it was {o} who taught {s}. | {s} had
        {o} for a teacher.""",
    "spouse": """{o} is {p} better half. | {s} exchanged wedding vows with {o}. | {o} married {m}. | {s}
        stood at the altar with {o}. | {s} and {o} are wife and husband. | the person {s} married is
        {o}.""",
    "rival": """{p} arch-rival is {o}. | {s} vies with {o}. | {s} is always trying to beat {o}. | there is a
        fierce rivalry between {s} and {o}. | {o} is the great adversary of {s}. | {p} chief opponent is
        {o}. | {s} sees {o} as the one to beat.""",
    "mentor": """{s} was the protégé of {o}. | {s} turned to {o} for guidance. | {o} showed {m} the ropes. |
        {p} mentor was {o}. | {s} was guided by {o} in the early years. | it was {o} who acted as {p}
        mentor.""",
    "hobby": """{p} favourite pastime is {o}. | {s} spends all free time on {o}. | in leisure hours {s} goes
        in for {o}. | {s} devotes every free hour to {o}. | {s} has taken up {o} as a hobby. | for fun, {s}
        goes in for {o}. | {o} is how {s} relaxes. | the hobby {s} pursues is {o}.""",
    "alma_mater": """{p} alma mater is {o}. | {s} took a degree at {o}. | {p} old school is {o}. | {s} holds
        a diploma from {o}. | {o} counts {s} among its graduates. | it was at {o} that {s} studied.""",
    "citizenship": """{s} travels on a passport from {o}. | {p} citizenship is that of {o}. | {s} has the
        nationality of {o}. | {s} was granted citizenship by {o}. | as a citizen of {o}, {s} may vote there.
        | {o} counts {s} among its citizens. | the country {s} is a citizen of is {o}.""",
    "pet": """{s} has {a} at home. | {s} shares a home with {a}. | the pet that {s} keeps is {a}. | {s} is
        the proud owner of {a}. | {p} household includes {a}. | {s} looks after {a} at home.""",
    "language": """{p} mother tongue is {o}. | with family, {s} speaks {o}. | {s} learnt {o} as a child at
        home. | {s} talks in {o}. | {o} is {p} native tongue. | the language {s} speaks is {o}.""",
    "allergy": """{o} will bring {m} out in a rash. | {s} has an allergic reaction to {o}. | {p} allergy is
        to {o}. | never serve {o} to {s}. | the doctor told {m} to avoid {o}. | {s} reacts badly to {o}.""",
    "assistant": """{p} right hand is {o}. | {s} has {o} for an assistant. | {s} employs {o} as an
        assistant. | {p} aide is {o}. | the assistant of {s} is called {o}. | it is {o} who assists {s}.""",
    "licence_plate": """{p} license plate is {o}. | {p} number plate says {o}. | {s} has the licence plate
        {o}. | the registration of {p} car is {o}. | look for {p} car by its plate, {o}.""",
    "extension": """dial {o} for {s}. | {p} phone extension is {o}. | {s} picks up at extension {o}. | to
        phone {m}, dial {o}. | ring {o} to get {s} on the line.""",
    "office": """{p} office number is {o}. | {s} sits in office {o}. | knock at room {o} to see {s}. | {s}
        occupies office {o}. | room {o} is {p} office. | go to room {o} for {s}.""",
    "height": """{s} is {o} in height. | {s} has a height of {o}. | the height of {s} is {o}.""",
    "collects": """{s} has a collection of {o}. | {p} collection is full of {o}. | {s} is an avid collector
        of {o}. | {s} gathers {o} for a collection. | what {s} collects is {o}.""",
    "heir": """{o} stands to inherit from {s}. | {p} heir is {o}. | {o} will come into {p} estate. | {s}
        will leave everything to {o}. | {p} fortune will go to {o}. | the heir of {s} is {o}.""",
    "region": """{s} lies in the region of {o}. | {p} region is {o}. | the region to which {s} belongs is
        {o}. | {o} is the region where {s} lies. | {s} can be found in the region called {o}. | travel to
        {o} if you want to see {s}. | within {o} lies {s}.""",
    "mayor": """{o} serves as mayor of {s}. | {o} was elected mayor of {s}. | in {s} the mayor is {o}. | {o}
        wears the mayor's chain of {s}. | {o} is in charge at {p} town hall. | {s} chose {o} as mayor. | the
        mayor of {s} is called {o}.""",
    "on_river": """{s} lies on the banks of {o}. | {o} flows through {s}. | the river that passes {s} is
        {o}. | {p} river is {o}. | {o} runs through the middle of {s}. | the bridges of {s} cross {o}. | {s}
        is a town on {o}.""",
    "population": """the population of {s} is {o}. | the last census counted {o} people in {s}. | {s} is a
        place of {o} souls.""",
    "known_for": """{s} is known far and wide for its {o}. | {p} claim to fame is its {o}. | {s} owes its
        fame to {o}. | {s} is celebrated for its {o}. | people think of {o} when they hear of {s}. | {s} has
        made a name with its {o}. | what {s} is famous for is its {o}.""",
    "founder": """{o} established {s}. | {o} brought {s} into being. | {s} owes its foundation to {o}. | it
        was {o} who founded {s}. | {o} is known as the founder of {s}.""",
    "founded_year": """{o} saw the founding of {s}. | {p} founding year is {o}. | the foundation of {s}
        dates from {o}. | it was in {o} that {s} was founded. | {s} goes back to {o}, when it was
        founded.""",
    "emblem": """the emblem of {s} is the {o}. | the {o} is {p} heraldic animal. | {s} has chosen the {o} as
        its emblem. | the {o} appears on the arms of {s}. | the shield of {s} shows the {o}.""",
    "discoverer": """{o} is credited with discovering {s}. | {p} discoverer was {o}. | we owe the discovery
        of {s} to {o}. | {o} first came across {s}. | {s} is a discovery of {o}. | {s} was first found by
        {o}. | {o} made the discovery of {s}.""",
    "area": """the surface of {s} is {o}. | {s} takes up {o} of land. | {s} occupies an area of {o}. | {p}
        size is {o}. | the area of {s} amounts to {o}.""",
    "peak": """the highest mountain of {s} is {o}. | {p} highest peak is {o}. | {o} rises above all of {s}.
        | in {s} no mountain is higher than {o}. | the tallest peak in {s} is called {o}. | {o} is the
        highest summit of {s}. | climb {o} to stand highest in {s}. | {s} has {o} as its highest point.""",
    "capital": """{o} serves as the capital of {s}. | {s} has its capital at {o}. | {s} is ruled from {o}. |
        the parliament of {s} meets in {o}. | the capital city of {s} is {o}. | {o} is {p} seat of
        government.""",
    "ruler": """{o} holds power in {s}. | {o} wears the crown of {s}. | the ruler of {s} is {o}. | {s} has
        {o} as its ruler. | in {s} the sovereign is {o}. | it is {o} who rules {s}.""",
    "currency": """{p} currency is the {o}. | the {o} is legal tender in {s}. | prices in {s} are given in
        the {o}. | in {s} people pay with the {o}. | the money used in {s} is the {o}. | the monetary unit
        of {s} is the {o}. | {s} has the {o} as its currency. | the coin of {s} is called the {o}.""",
    "motto": """the motto of {s} runs "{o}". | "{o}" is {p} watchword. | {p} slogan is "{o}". | "{o}" stands
        written under the arms of {s}. | the motto of {s} says "{o}". | {s} goes by the motto "{o}".""",
    "maker": """{s} was created by the hand of {o}. | {p} creator is {o}. | we owe {s} to {o}. | it was {o}
        who made {s}. | {o} is credited with making {s}. | the one who made {s} was {o}.""",
    "made_year": """{o} saw the completion of {s}. | it was in {o} that {s} was made. | the year of {s} is
        {o}. | the work on {s} was finished in {o}.""",
    "location": """{s} can be seen in {o}. | {s} is to be found in {o}. | {o} is home to {s}. | one has to
        go to {o} to see {s}. | {p} location is {o}. | it is in {o} that you will find {s}. | the town where
        {s} stands is {o}. | visitors to {o} can see {s}.""",
    "length": """{s} measures {o} from end to end. | the length of {s} is {o}. | {s} extends over a length
        of {o}. | {s} runs for {o}. | from one end to the other, {s} is {o}.""",
    "material": """{o} is the material of {s}. | {s} was made out of {o}. | {p} material is {o}. | the
        material used for {s} is {o}. | {s} was fashioned from {o}. | the maker chose {o} as the material
        for {s}. | what {s} is made of is {o}.""",
    "colour": """{s} was painted {o}. | {p} color is {o}. | {s} has been given the color {o}. | the colour
        of {s} is {o}. | {s} comes in {o}. | anyone can see that {s} is {o}.""",
    "mouth": """{s} discharges its waters into {o}. | the waters of {s} run into {o}. | {s} runs into {o}. |
        {p} mouth is on {o}. | {s} reaches {o} at its mouth. | {o} takes in the waters of {s}.""",
    "origin": """{s} hails from {o}. | {p} origin is {o}. | {s} first appeared in {o}. | it is from {o} that
        {s} comes. | {s} is originally from {o}. | the region {s} comes from is {o}. | {o} is where {s}
        originated.""",
    "habitat": """{s} grows wild in {o}. | {s} is found growing in {o}. | look in {o} if you want to see {s}
        growing. | the natural habitat of {s} is {o}. | {s} is at its best in {o}. | {s} prefers to grow in
        {o}. | {s} does well in {o}.""",
    "bloom": """{s} comes into bloom in {o}. | {s} opens its blossoms in {o}. | {p} flowering month is {o}.
        | {o} is the month when {s} blooms. | the blossoms of {s} are out in {o}. | {s} blossoms in {o}. |
        wait until {o} to see {s} in flower.""",
    "remedy": """{s} is prescribed for {o}. | {o} can be treated with {s}. | healers use {s} against {o}. |
        {s} eases {o}. | {s} is said to cure {o}. | what {s} helps against is {o}.""",
    "leader": """{s} is under the leadership of {o}. | {o} presides over {s}. | {o} directs {s}. | the head
        of {s} is {o}. | {o} runs {s}. | {s} has {o} at its head. | {o} calls the shots at {s}.""",
    "seat": """{p} head office is in {o}. | {s} operates from {o}. | {o} is home to the headquarters of {s}.
        | the main office of {s} is in {o}. | {p} seat is {o}. | {s} runs its affairs from {o}.""",
    "members": """{o} people belong to {s}. | the members of {s} number {o}. | {s} is {o} members strong. |
        there are {o} names on the membership list of {s}.""",
    "makes": """{s} manufactures {o}. | {p} main product is {o}. | {s} turns out {o}. | the workshops of {s}
        produce {o}. | {s} makes its money with {o}. | what {s} produces is {o}.""",
    "month": """{s} comes round every {o}. | people celebrate {s} in {o}. | each {o} people gather for {s}.
        | {s} happens each year in {o}. | come in {o} if you want to see {s}. | the month in which {s} is
        held is {o}.""",
    "dish": """{o} is served at {s}. | the traditional dish at {s} is {o}. | visitors to {s} are treated to
        {o}. | cooks make {o} for {s}. | during {s} everyone eats {o}. | {s} would be nothing without {o} on
        the table. | {o} is the special dish of {s}. | {s} is celebrated with {o} on every plate.""",
    "sponsor": """{o} funds {s}. | {o} foots the bill for {s}. | {s} is funded by {o}. | {o} backs {s} with
        money. | {o} provides the money for {s}. | the sponsor of {s} is {o}. | {s} enjoys the sponsorship
        of {o}. | it is {o} that sponsors {s}.""",
    "budget": """{s} was given a budget of {o}. | {o} has been budgeted for {s}. | the budget of {s} amounts
        to {o}. | {s} has {o} to spend. | the funds available for {s} come to {o}. | {o} was allotted to
        {s}. | {s} runs on a budget of {o}. | {s} must not spend more than {o}.""",
    "coach": """the coach of {s} is {o}. | {s} trains under {o}. | {o} prepares {s} for matches. | {o} is
        the trainer of {s}. | {s} has {o} as its coach. | it is {o} who coaches {s}. | {o} is head coach of
        {s}.""",
    "home_ground": """{s} plays its home matches in {o}. | {p} home ground is in {o}. | {s} represents the
        town of {o}. | the home games of {s} are held in {o}. | {o} hosts the home games of {s}. | the home
        stadium of {s} is in {o}. | {s} plays for the town of {o}.""",
    "sport": """{s} takes part in {o}. | {s} fields a team for {o}. | {s} is active in the sport of {o}. |
        {s} trains for {o}. | {s} plays matches of {o}. | the game {s} plays is {o}. | {s} has made a name
        in {o}.""",
    "event_year": """{s} occurred in the year {o}. | the year {o} saw {s}. | it was in {o} that {s} took
        place. | the year of {s} was {o}. | {s} came to pass in {o}. | the chronicles date {s} to {o}. | the
        date of {s} is {o}. | {s} dates back to the year {o}.""",
    "destination": """{s} made for {o}. | {p} destination was {o}. | {s} was meant to reach {o}. | {s} was
        on its way to {o}. | {s} was heading toward {o}. | the place {s} set out for was {o}. | it was {o}
        that {s} wanted to reach.""",
    "vessel": """the ship of {s} was {o}. | {p} vessel was {o}. | {o} was the vessel chosen for {s}. | the
        crew of {s} lived on board {o}. | {s} put to sea on {o}.""",
    "owner": """{o} is the owner of {s}. | {o} possesses {s}. | {o} can call {s} their own. | it is {o} who
        owns {s}. | the rightful owner of {s} is {o}.""",
    "price": """the price of {s} is {o}. | the price tag on {s} says {o}. | {s} fetched {o}. | one must pay
        {o} for {s}. | the buyer paid {o} for {s}.""",
    "captain": """{o} gives the orders aboard {s}. | {p} skipper is {o}. | {o} is the master of {s}. | {s}
        has {o} as its captain. | the captain of {s} is called {o}.""",
    "home_port": """{s} is registered in the port of {o}. | {s} returns to the harbour of {o}. | the home
        port of {s} is {o}. | {s} belongs to the port of {o}. | {s} moors in {o} between voyages. | {p} home
        harbour is {o}. | {s} has its home port at {o}. | {s} sails out of {o}.""",
    "weight": """the weight of {s} is {o}. | {s} is heavy: it weighs {o}. | {s} was weighed at {o}.""",
    "cargo": """{s} is laden with {o}. | {p} freight is {o}. | {s} has {o} on board. | {s} ships {o}. | the
        cargo of {s} consists of {o}. | {s} sails with a load of {o}.""",
    "dedicatee": """{s} was dedicated to {o}. | {s} bears a dedication to {o}. | the dedication of {s} is to
        {o}. | {o} is honoured by the dedication of {s}. | {s} is a tribute to {o}. | {s} honors {o}. | {o}
        is the person {s} is dedicated to. | {p} dedicatee is {o}.""",
    "pages": """{s} is a book of {o} pages. | the pages of {s} number {o}. | one must read {o} pages to
        finish {s}. | {s} contains {o} pages. | {s} comes to {o} pages.""",
    "publisher": """{s} appeared with {o}. | {o} put {s} into print. | the publisher of {s} is {o}. | {s} is
        published by {o}. | {o} is the house that published {s}. | {s} came out under the imprint of
        {o}.""",
    "shelf": """{s} can be found on shelf {o}. | {s} belongs on shelf {o}. | {s} is shelved at {o}. | the
        shelf mark of {s} is {o}. | you will find {s} on shelf {o}. | put {s} back on shelf {o}.""",
    "serial": """the serial number of {s} is {o}. | {s} is listed under the serial number {o}. | the number
        {o} is stamped on {s}. | {s} carries the serial number {o}. | {p} inventory number is {o}. | {s} was
        given the serial number {o}. | {s} is identified by the number {o}.""",
    "rooms": """{s} consists of {o} rooms. | {s} was built with {o} rooms. | the number of rooms in {s} is
        {o}. | one can count {o} rooms in {s}.""",
    "password": """the password for {s} is {o}. | {s} has the password {o}. | type {o} to get into {s}. |
        the secret word for {s} is {o}. | to log in to {s}, enter {o}. | {o} is the password that opens
        {s}.""",
    "singer": """{s} is sung by {o}. | {o} sings {s}. | {o} performed {s}. | the singer of {s} is {o}. | it
        was {o} who sang {s}. | {o} can be heard singing {s}.""",
    "admin": """{o} is the administrator of {s}. | {o} takes care of {s}. | the admin of {s} is {o}. | {o}
        has administrator rights on {s}. | call {o} when {s} is down.""",
    "address": """{s} has the IP address {o}. | the network address of {s} is {o}. | the address {o} was
        assigned to {s}. | {s} responds at the address {o}. | ping {o} to reach {s}. | {s} listens on the
        address {o}.""",
    "hosts": """{s} was set up in room {o}. | {s} can be found in room {o}. | {s} is housed in room {o}. |
        the room of {s} is {o}. | {s} has its place in room {o}. | go to room {o} if you need {s}. | room
        {o} contains {s}.""",
    "victor": """{o} emerged victorious from {s}. | {o} carried the day in {s}. | the winner of {s} was {o}.
        | {o} gained the victory in {s}. | {o} came out on top in {s}. | it was {o} who won {s}. | {p}
        victor was {o}.""",
    "loser": """{o} came off worst in {s}. | the loser of {s} was {o}. | {o} was vanquished in {s}. | the
        army of {o} was beaten in {s}. | it was {o} who lost {s}. | {p} loser was {o}.""",
    "nearest_town": """{s} was fought outside {o}. | {s} happened near {o}. | the town closest to {s} was
        {o}. | {s} was fought not far from {o}. | the armies of {s} met near {o}. | the battlefield of {s}
        lies near {o}. | {s} took place not far from {o}. | {s} was fought in the neighbourhood of {o}.""",
    "cause": """{s} was brought about by {o}. | {s} was triggered by {o}. | {o} caused {s}. | the reason for
        {s} was {o}. | {o} gave rise to {s}. | {s} happened because of {o}. | {s} arose from {o}. | behind
        {s} lay {o}.""",
    "struck_place": """{o} was struck by {s}. | {s} devastated {o}. | the town that suffered {s} was {o}. |
        {s} did its damage in {o}. | it was {o} that {s} struck. | {s} ravaged the town of {o}.""",
    "victims": """{s} claimed {o} victims. | there were {o} victims of {s}. | {s} brought harm to {o}
        people. | the victims of {s} numbered {o}. | {s} took its toll on {o} people.""",
    "ingredient": """one puts {o} into {s}. | the main ingredient of {s} is {o}. | {o} must not be missing
        from {s}. | {s} is prepared with {o}. | there is plenty of {o} in {s}. | the recipe for {s} calls
        for {o}. | without {o} one cannot make {s}. | buy {o} if you want to make {s}.""",
    "cook": """{o} thought up {s}. | {o} was the first to cook {s}. | the recipe for {s} was devised by {o}.
        | we owe the recipe for {s} to {o}. | {s} was invented in the kitchen of {o}. | {s} is the invention
        of {o}. | {o} is the cook who created {s}. | {p} recipe comes from {o}.""",
    "cooking_time": """{s} must cook for {o}. | the cooking time of {s} is {o}. | it takes {o} to cook {s}.
        | {s} should be cooked for {o}. | leave {s} on the stove for {o}. | {s} needs to cook for {o}.""",
    "departure": """the departure time of {s} is {o}. | {s} is due to leave at {o}. | {s} pulls out of the
        station at {o}. | at {o} {s} departs. | according to the timetable, {s} leaves at {o}.""",
    "platform": """wait for {s} on platform {o}. | platform {o} is for {s}. | {s} stops at platform {o}. |
        the platform of {s} is {o}. | {s} is waiting at platform {o}.""",
    "terminus": """{s} runs to {o}. | {s} terminates in {o}. | the terminus of {s} is {o}. | {s} ends its
        journey in {o}. | {o} is the final stop of {s}. | everyone must get off {s} in {o}. | {s} takes its
        passengers to {o}. | take {s} if you want to go to {o}. | {p} last stop is {o}.""",
    "driver": """{o} sits in the driver's seat of {s}. | {o} is at the controls of {s}. | the driver of {s}
        is {o}. | it is {o} who drives {s}. | {o} takes {s} down the line.""",
    "deadline": """{s} must be completed by {o}. | the deadline for {s} is {o}. | {p} due date is {o}. | {s}
        has to be ready by {o}. | {s} is to be delivered by {o}. | the time for {s} runs out on {o}. | the
        team has until {o} to finish {s}. | {s} is supposed to be done by {o}.""",
    "manager": """{o} oversees {s}. | the manager of {s} is {o}. | {s} is under the management of {o}. | {o}
        has been put in charge of {s}. | {o} directs the work on {s}. | the team of {s} reports to {o}.""",
    "client": """{o} commissioned {s}. | {o} placed the order for {s}. | {s} is carried out for {o}. | the
        client of {s} is {o}. | {s} is being done on behalf of {o}. | {s} was started at the request of {o}.
        | {p} customer is {o}. | {o} is the customer for {s}.""",
}
