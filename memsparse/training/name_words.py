"""Word lists behind invented names and needles."""


def words(text: str) -> tuple[str, ...]:
    """Split a block of text into its words, each once, in order."""
    return tuple(dict.fromkeys(text.split()))


FIRST_NAMES = words("""
Ada Agnes Albert Alice Alma Amir Ana Anders Anna Anton Arthur Astrid Aya Beatrice Ben Bruno Carla Carlos
Cecil Chen Clara Conrad Daisy David Diego Dora Edgar Edith Elena Elias Eliza Ella Emil Emma Erik Esther Eva
Fatima Felix Fiona Flora Frank Frida George Grace Greta Hana Hannah Harold Hassan Hector Helen Henry Hugo
Ida Igor Ines Irene Iris Isaac Ivan Jack Jakob James Jane Jasper Jean Joan John Jonas Jorge Josef Julia
Karim Karl Kate Kenji Lars Laura Lea Leila Leo Liam Lily Lucas Lucy Luis Lydia Magnus Mara Marco Maria
Martin Mary Max Mei Mina Mira Nadia Nils Nina Noah Nora Olga Oliver Omar Oscar Otto Paul Pavel Pedro Peter
Petra Priya Quentin Rachel Rafael Ravi Rita Robert Rosa Ruth Sam Samira Sara Simon Sofia Stefan Stella Susan
Sven Tara Theo Thomas Tomas Ursula Vera Victor Viola Walter Wanda William Yara Yusuf Zara Zoe
""")

ADJECTIVES = words("""
amber ancient autumn azure bitter black blue bold brass brave bright brisk broken bronze calm careful clever
cloudy cold copper coral crimson crisp crooked curious dancing dark dawn deep distant dizzy double dusty
eager early eastern ebony elder electric emerald empty endless evening faded faithful fallen famous
feathered fierce final floating foggy forgotten fragile friendly frozen gentle gilded glad golden grand
grateful green grey happy harsh hasty hazel heavy hidden hollow honest humble hungry icy idle indigo iron
ivory jade jolly kind lasting late lazy lively lonely lost loud lucky lunar mellow merry mighty misty modest
narrow neat nimble noble northern odd olive pale patient placid plain polite proud purple quick quiet rapid
rare restless rolling round rough royal rugged rusty sacred salty sandy scarlet secret shady sharp shining
shy silent silver simple sleepy slender slow smooth snowy solar solemn southern spotted steady stormy
striped strong sturdy subtle sudden sunny swift tall tame tender thirsty thorny tidy tiny twin velvet violet
vivid wandering warm weary western white wicked wild windy winter wise witty wooden yellow young zealous
""")

NOUNS = words("""
acorn anchor apple apron arrow badger balcony barrel basket beacon bell birch blanket blossom boat bottle
boulder bracelet branch breeze bridge bucket button cabin cactus camel candle canyon castle cedar chain
chapel cherry chest chimney cliff clock cloud clover coin comet compass cradle crane creek cricket crown
crystal curtain daisy desert dolphin donkey dragon drum eagle ember engine falcon feather fern fiddle field
flame flute forest fountain fox garden gate giant glacier glove goose grove hammer harbour harp hawk hedge
helmet heron hill horizon horn hound island jacket jewel kettle key kite ladder lagoon lake lamp lantern
lark laurel leaf lemon letter lily lion lizard locket magnet maple marble meadow mirror mitten monkey moon
moth mountain mushroom needle nest oak oar ocean orchard orchid otter owl paddle panther parrot pearl pebble
pepper piano pigeon pillow pine planet pocket pond poplar puzzle quarry quilt rabbit raft raven reef ribbon
river robin rocket rose saddle sail salmon scarf sea shadow shell shield shore shovel sparrow spider spire
spoon spring squirrel star station stone storm stream summer sun swan sword table temple thistle thunder
tiger torch tower train trumpet tulip tunnel turtle umbrella valley vase village violin wagon walnut watch
water wave whale wheel whisper willow window wing wolf wren
""")

STEMS = words("""
ash beck black brand brook cold crow dun east elder elm fair fern fox gold green grim hart haw hazel high
holm iron kings lang larch long mar mill moor north oak old raven red rock rush salt sand sheep silver south
stan stone swan thorn wald west wet white wild win wood wolf wren
""")
TAILS = words("""
borough bourne bridge brook burn bury by combe cote croft dale den ditch fell field ford gate grave ham
hampton haven hill holt house hurst land leigh ley lock mere minster more mouth ness pool port ridge shaw
side stead stoke thorpe ton wall water way well wick wold wood worth
""")

ORGANISATION_NOUNS = {
    "company": words("Company Works Trading Mills Brothers Foundry Press Motors Shipyard Bank"),
    "school": words("School Academy College Institute Seminary University"),
    "guild": words("Guild Society League Brotherhood Union Fellowship"),
    "orchestra": words("Orchestra Ensemble Philharmonic Choir Symphony Band"),
}
ORGANISATION_KINDS = tuple(ORGANISATION_NOUNS)
DEVICE_NOUNS = words(
    "Engine Clock Lamp Loom Pump Telescope Scale Press Compass Furnace Wheel Organ Valve Meter Lens Drill"
)
HOUSE_NOUNS = words("House Hall Manor Inn Castle Lodge Villa Tower Hotel Court")
FESTIVAL_NOUNS = words("Festival Fair Carnival Feast Games Parade")
TEAM_NOUNS = words(
    "Rovers United Wanderers Athletic Eagles Harriers Saints Lions Kickers Strollers Hornets Albion"
)
TRAIN_NOUNS = words("Express Flyer Arrow Mail Limited Shuttle Sleeper Local Comet")
PROJECT_NOUNS = words("Programme Initiative Scheme Plan Undertaking Study")
DISH_NOUNS = words("stew pie soup pudding dumplings cake broth casserole salad loaf pancake curry tart")
ACCIDENT_NOUNS = words("Fire Flood Explosion Landslide Collapse Derailment Disaster Blackout Shipwreck")
PLANT_NOUNS = words(
    "fern lily moss orchid thistle sedge ivy nettle clover poppy rush bellflower cress willow"
)
