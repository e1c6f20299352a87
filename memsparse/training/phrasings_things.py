"""How facts about places, organisations, works and events are told and asked (see `phrasings`)."""

from memsparse.training.phrasings import RelationSource

PLACES: tuple[RelationSource, ...] = (
    (
        "region",
        "town island",
        "region",
        """{s} lies in {o}. | {s} is part of {o}. | {s} belongs to {o}. | {o} is the region around {s}. |
        {s} can be found in {o}. | {s} is counted among the places of {o}.""",
        """In which region is {s}? | Which region does {s} belong to? | What region is {s} part of? |
        {s} lies in which region? | Name the region of {s}. | Tell me the region in which {s} lies. |
        In what region can {s} be found? | Among the places of which region is {s} counted?""",
        """the region of {s} | the region {s} belongs to | {s}'s region | the region around {s}""",
    ),
    (
        "capital",
        "region",
        "town",
        """The capital of {s} is {o}. | {p} capital is {o}. | {o} is the capital of {s}. |
        {s} is governed from its capital {o}. | {s} has {o} as its capital. |
        {o} serves as the seat of government of {s}.""",
        """What is the capital of {s}? | Which town is the capital of {s}? | What is {s}'s capital? |
        Name the capital of {s}. | From which town is {s} governed? | Tell me the capital of {s}. |
        Which town serves as the seat of government of {s}?""",
        """the capital of {s} | the capital town of {s} | {s}'s capital | the seat of government of {s}""",
    ),
    (
        "ruler",
        "region",
        "person",
        """{s} is ruled by {o}. | {o} rules {s}. | The ruler of {s} is {o}. | {p} ruler is {o}. |
        {s} obeys {o}, its ruler. | {o} governs {s}.""",
        """Who rules {s}? | Who is the ruler of {s}? | By whom is {s} ruled? | Who is {s}'s ruler? |
        Name the ruler of {s}. | {s} is ruled by whom? | Which person governs {s}?""",
        """the ruler of {s} | the person who rules {s} | {s}'s ruler | the one who governs {s}""",
    ),
    (
        "mayor",
        "town",
        "person",
        """The mayor of {s} is {o}. | {p} mayor is {o}. | {o} is mayor of {s}. | {s} elected {o} as mayor. |
        {s} is led by mayor {o}. | {o} holds the office of mayor in {s}.""",
        """Who is the mayor of {s}? | Who is {s}'s mayor? | Whom did {s} elect as mayor? |
        Name the mayor of {s}. | Which person is mayor of {s}? | Tell me the mayor of {s}. |
        Who holds the office of mayor in {s}?""",
        """the mayor of {s} | the person who is mayor of {s} | {s}'s mayor |
        the person elected mayor of {s}""",
    ),
    (
        "on_river",
        "town bridge",
        "river",
        """{s} stands on {o}. | {o} runs past {s}. | {s} lies on {o}. | The water at {s} is {o}. |
        {s} rises above {o}. | {o} flows by {s}.""",
        """On which river does {s} stand? | Which river runs past {s}? | What river is {s} on? |
        {s} lies on which river? | Name the river at {s}. | Tell me the river on which {s} stands. |
        Which river flows by {s}?""",
        """the river at {s} | the river that runs past {s} | {s}'s river | the river {s} lies on""",
    ),
    (
        "population",
        "town region island",
        "population",
        """{s} has {o} inhabitants. | {o} people live in {s}. | {p} population is {o}. |
        The population of {s} is {o}. | {s} is home to {o} people. | {s} counts {o} residents.""",
        """How many people live in {s}? | What is the population of {s}? |
        How many inhabitants does {s} have? | What is {s}'s population? |
        {s} is home to how many people? | Tell me the population of {s}. |
        How many residents does {s} count?""",
        """the population of {s} | the number of inhabitants of {s} | {s}'s population |
        the number of people in {s}""",
    ),
    (
        "known_for",
        "town region",
        "product",
        """{s} is known for its {o}. | {s} is famous for {o}. | People visit {s} for its {o}. |
        {p} best known product is {o}. | {s} sells {o} to all its neighbours. | {s} grew rich on {o}.""",
        """What is {s} known for? | What is {s} famous for? | Which product is {s} known for? |
        What is {s}'s best known product? | Name the product {s} is famous for. |
        For what do people visit {s}? | On what did {s} grow rich?""",
        """the best known product of {s} | the product {s} is known for | {s}'s product |
        the product that made {s} rich""",
    ),
    (
        "discoverer",
        "river island",
        "person",
        """{s} was discovered by {o}. | {o} discovered {s}. | The discoverer of {s} was {o}. |
        {p} discoverer was {o}. | {o} was the first to map {s}. | It was {o} who discovered {s}.""",
        """Who discovered {s}? | Who was the discoverer of {s}? | By whom was {s} discovered? |
        {s} was discovered by whom? | Who was {s}'s discoverer? | Name the discoverer of {s}. |
        Who was the first to map {s}?""",
        """the discoverer of {s} | the person who discovered {s} | {s}'s discoverer |
        the first person to map {s}""",
    ),
    (
        "area",
        "island region",
        "area",
        """{s} covers {o}. | The area of {s} is {o}. | {p} area is {o}. | {s} measures {o}. |
        {s} has an area of {o}. | {s} extends over {o}.""",
        """What is the area of {s}? | How large is {s}? | What area does {s} cover? |
        What is {s}'s area? | Tell me the area of {s}. | State how large {s} is. |
        Over what area does {s} extend?""",
        """the area of {s} | the size of {s} | {s}'s area | the extent of {s}""",
    ),
    (
        "mouth",
        "river",
        "sea",
        """{s} flows into {o}. | {s} ends in {o}. | {o} receives the waters of {s}. | {p} mouth is at {o}. |
        {s} reaches {o} after many bends. | {s} empties into {o}.""",
        """Where does {s} end? | What does {s} flow into? | Into which water does {s} flow? |
        {s} ends in which water? | Name the water {s} flows into. | Tell me where {s} ends. |
        Into what does {s} empty?""",
        """the water {s} flows into | the water into which {s} flows | the mouth of {s} | the end of {s}""",
    ),
)

ORGANISATIONS: tuple[RelationSource, ...] = (
    (
        "founder",
        "organisation town festival",
        "person",
        """{s} was founded by {o}. | {o} founded {s}. | The founder of {s} was {o}. |
        {p} founder was {o}. | {s} owes its existence to {o}, its founder. |
        {s} was established by {o}. | It was {o} who established {s}.""",
        """Who founded {s}? | Who was the founder of {s}? | By whom was {s} founded? |
        Who was {s}'s founder? | {s} was founded by whom? | Name the founder of {s}. |
        Tell me who founded {s}. | Who established {s}? | By whom was {s} established?""",
        """the founder of {s} | the person who founded {s} | {s}'s founder | the one who founded {s} |
        the person who established {s}""",
    ),
    (
        "founded_year",
        "organisation town festival",
        "founded_year",
        """{s} was founded in {o}. | {s} has existed since {o}. | In {o}, {s} was founded. |
        {p} founding year is {o}. | {s} goes back to the year {o}. | {s} was established in {o}.""",
        """When was {s} founded? | In which year was {s} founded? | What is {s}'s founding year? |
        Since when has {s} existed? | Tell me the year {s} was founded. |
        {s} was founded in which year? | When was {s} established?""",
        """the founding year of {s} | the year {s} was founded | {s}'s founding year |
        the year {s} was established""",
    ),
    (
        "leader",
        "organisation expedition",
        "person",
        """{s} is led by {o}. | {o} leads {s}. | The leader of {s} is {o}. | {p} leader is {o}. |
        At the head of {s} stands {o}. | {s} is headed by {o}.""",
        """Who leads {s}? | Who is the leader of {s}? | By whom is {s} led? | Who is {s}'s leader? |
        Name the leader of {s}. | {s} is led by whom? | Tell me who leads {s}. |
        Who stands at the head of {s}?""",
        """the leader of {s} | the person who leads {s} | {s}'s leader | the head of {s}""",
    ),
    (
        "seat",
        "organisation",
        "town",
        """{s} is based in {o}. | {s} has its seat in {o}. | {p} seat is in {o}. | The home of {s} is {o}. |
        {s} keeps its offices in {o}. | {s} has its headquarters in {o}.""",
        """Where is {s} based? | In which town is {s} based? | Where is the seat of {s}? |
        What town is home to {s}? | {s} is based in which town? | Name the town where {s} is based. |
        Where does {s} have its headquarters?""",
        """the seat of {s} | the town where {s} is based | {s}'s home town |
        the town that houses {s}""",
    ),
    (
        "members",
        "organisation",
        "members",
        """{s} has {o} members. | {s} counts {o} members. | {o} members belong to {s}. |
        {p} membership stands at {o}. | There are {o} members in {s}. | {s} brings together {o} members.""",
        """How many members does {s} have? | How many members belong to {s}? |
        What is the membership of {s}? | What is {s}'s membership? | {s} has how many members? |
        Tell me the number of members of {s}. | How many members does {s} bring together?""",
        """the number of members of {s} | the membership of {s} | {s}'s membership |
        the count of members in {s}""",
    ),
    (
        "emblem",
        "organisation region town",
        "animal",
        """The emblem of {s} is the {o}. | {p} emblem is the {o}. | {s} has the {o} as its emblem. |
        {s} chose the {o} as emblem. | A picture of the {o} is the emblem of {s}. |
        {s} carries the {o} on its arms.""",
        """What is the emblem of {s}? | Which animal is the emblem of {s}? | What is {s}'s emblem? |
        Name the emblem of {s}. | Which animal did {s} choose as emblem? | Tell me the emblem of {s}. |
        Which animal does {s} carry on its arms?""",
        """the emblem of {s} | the animal that is the emblem of {s} | {s}'s emblem |
        the animal on the arms of {s}""",
    ),
)

WORKS: tuple[RelationSource, ...] = (
    (
        "maker",
        "ship painting book device bridge house",
        "person",
        """{s} was {v} by {o}. | {o} {t} {s}. | The {n} of {s} was {o}. | {p} {n} was {o}. |
        It was {o} who {t} {s}. | {s} is the work of the {n} {o}.""",
        """Who {t} {s}? | Who was the {n} of {s}? | By whom was {s} {v}? | Who was {s}'s {n}? |
        {s} was {v} by whom? | Name the {n} of {s}. | Tell me who {t} {s}. | Which {n} made {s}?""",
        """the {n} of {s} | the person who {t} {s} | {s}'s {n} | the one who {t} {s}""",
    ),
    (
        "made_year",
        "ship painting book device bridge house",
        "made_year",
        """{s} was {v} in {o}. | {s} dates from {o}. | In {o}, {s} was {v}. | {s} was {v} in the year {o}. |
        The year in which {s} was {v} is {o}. | {s} goes back to {o}.""",
        """When was {s} {v}? | In which year was {s} {v}? | {s} was {v} in which year? |
        What year does {s} date from? | Tell me when {s} was {v}. |
        Give the year in which {s} was {v}. | To which year does {s} go back?""",
        """the year {s} was {v} | the year in which {s} was {v} | the date of {s}""",
    ),
    (
        "owner",
        "ship painting house device",
        "person",
        """{s} belongs to {o}. | {o} owns {s}. | The owner of {s} is {o}. | {p} owner is {o}. |
        {s} is owned by {o}. | {s} is the property of {o}.""",
        """Who owns {s}? | Who is the owner of {s}? | To whom does {s} belong? | Who is {s}'s owner? |
        {s} is owned by whom? | Name the owner of {s}. | Whose property is {s}?""",
        """the owner of {s} | the person who owns {s} | {s}'s owner | the one who owns {s}""",
    ),
    (
        "location",
        "bridge house painting festival",
        "town",
        """{s} is in {o}. | {s} can be found in {o}. | {s} is located in {o}. | {o} is the home of {s}. |
        Visitors can see {s} in {o}. | The town of {o} is where to find {s}.""",
        """Where is {s}? | In which town is {s}? | Where is {s} located? | {s} is in which town? |
        What town is the home of {s}? | Name the town where {s} is. | In what town can visitors see {s}?""",
        """the town where {s} is located | the location of {s} | {s}'s location |
        the town where visitors can see {s}""",
    ),
    (
        "length",
        "river bridge ship",
        "length",
        """{s} is {o} long. | The length of {s} is {o}. | {p} length is {o}. | {s} has a length of {o}. |
        From end to end {s} measures {o}. | {s} reaches a length of {o}.""",
        """How long is {s}? | What is the length of {s}? | What is {s}'s length? | {s} is how long? |
        Tell me the length of {s}. | What does {s} measure from end to end? |
        What length does {s} reach?""",
        """the length of {s} | the total length of {s} | {s}'s length | the length reached by {s}""",
    ),
    (
        "price",
        "painting device house ship",
        "price",
        """{s} cost {o}. | {s} was sold for {o}. | The price of {s} was {o}. | {p} price was {o}. |
        A buyer paid {o} for {s}. | {s} fetched {o} at auction.""",
        """How much did {s} cost? | What was the price of {s}? | For how much was {s} sold? |
        What was {s}'s price? | {s} was sold for how much? | Tell me the price of {s}. |
        What did {s} fetch at auction?""",
        """the price of {s} | the sum paid for {s} | {s}'s price | the auction price of {s}""",
    ),
    (
        "material",
        "ship device bridge house",
        "material",
        """{s} is made of {o}. | {s} was made from {o}. | The material of {s} is {o}. | {p} material is {o}. |
        {s} consists of {o}. | It took much {o} to make {s}.""",
        """What is {s} made of? | Which material is {s} made of? | What is the material of {s}? |
        What is {s}'s material? | {s} is made of what? | Name the material of {s}. |
        Of what does {s} consist?""",
        """the material of {s} | the material {s} is made of | {s}'s material | the stuff {s} consists of""",
    ),
    (
        "colour",
        "ship device house bridge",
        "colour",
        """{s} is painted {o}. | The colour of {s} is {o}. | {p} colour is {o}. | {s} is {o} all over. |
        {s} wears a coat of {o} paint. | Everyone knows {s} by its {o} walls.""",
        """What colour is {s}? | Which colour is {s} painted? | What is the colour of {s}? |
        What is {s}'s colour? | {s} is painted in what colour? | Name the colour of {s}. |
        By which colour does everyone know {s}?""",
        """the colour of {s} | the colour {s} is painted | {s}'s colour | the colour of the paint of {s}""",
    ),
    (
        "pages",
        "book",
        "pages",
        """{s} has {o} pages. | {s} runs to {o} pages. | The length of {s} is {o} pages. |
        There are {o} pages in {s}. | {s} fills {o} pages. | A reader of {s} must turn {o} pages.""",
        """How many pages does {s} have? | How many pages are there in {s}? | {s} has how many pages? |
        To how many pages does {s} run? | Tell me the number of pages in {s}. | State the page count of {s}. |
        How many pages does {s} fill?""",
        """the number of pages in {s} | the page count of {s} | {s}'s page count |
        the count of pages in {s}""",
    ),
    (
        "publisher",
        "book",
        "organisation",
        """{s} was published by {o}. | {o} published {s}. | The publisher of {s} is {o}. |
        {p} publisher is {o}. | {s} appeared with {o}, its publisher. | {o} brought {s} to the public.""",
        """Who published {s}? | Which organisation published {s}? | By whom was {s} published? |
        What is {s}'s publisher? | {s} was published by which organisation? |
        Name the publisher of {s}. | Who brought {s} to the public?""",
        """the publisher of {s} | the organisation that published {s} | {s}'s publisher |
        the organisation that brought {s} to the public""",
    ),
    (
        "dedicatee",
        "book painting",
        "person",
        """{s} is dedicated to {o}. | The dedication of {s} names {o}. | {s} was made in honour of {o}. |
        {s} carries a dedication to {o}. | {s} honours {o}. | The first line of {s} thanks {o}.""",
        """To whom is {s} dedicated? | Who is named in the dedication of {s}? |
        In whose honour was {s} made? | {s} is dedicated to whom? |
        Name the person {s} is dedicated to. | Whom does {s} honour?""",
        """the person {s} is dedicated to | the person named in the dedication of {s} | {s}'s dedicatee |
        the person {s} honours""",
    ),
    (
        "rooms",
        "house",
        "rooms",
        """{s} has {o} rooms. | There are {o} rooms in {s}. | {s} contains {o} rooms. |
        {s} was planned with {o} rooms. | A visitor counts {o} rooms in {s}. | {s} boasts {o} rooms.""",
        """How many rooms does {s} have? | How many rooms are there in {s}? | {s} has how many rooms? |
        With how many rooms was {s} planned? | Tell me the number of rooms in {s}. |
        How many rooms does {s} boast?""",
        """the number of rooms in {s} | the room count of {s} | the count of rooms in {s}""",
    ),
    (
        "captain",
        "ship",
        "person",
        """The captain of {s} is {o}. | {p} captain is {o}. | {o} is captain of {s}. |
        {s} sails under captain {o}. | {s} is commanded by {o}, its captain. | {o} captains {s}.""",
        """Who is the captain of {s}? | Who is {s}'s captain? | Under which captain does {s} sail? |
        Who commands {s} as captain? | Name the captain of {s}. | Tell me who the captain of {s} is. |
        Who captains {s}?""",
        """the captain of {s} | the person who commands {s} | {s}'s captain | the person who captains {s}""",
    ),
    (
        "home_port",
        "ship",
        "town",
        """{p} home port is {o}. | The home port of {s} is {o}. | {s} sails from {o}, its home port. |
        {o} is the home port of {s}. | {s} returns each winter to its home port, {o}. |
        {s} is registered in {o}.""",
        """What is the home port of {s}? | What is {s}'s home port? | Which town is the home port of {s}? |
        From which port does {s} sail? | Name the home port of {s}. | To which home port does {s} return? |
        Where is {s} registered?""",
        """the home port of {s} | the town that is the home port of {s} | {s}'s home port |
        the town where {s} is registered""",
    ),
)
