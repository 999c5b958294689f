"""Objects365 v2: detection, 365 classes, 1.74 M training and 80,000 validation images, boxes only.

    objects365_v2/annotations/zhiyuan_objv2_{train,val}.json      official
    objects365_v2/annotations/objects365_v2_{train,val}.json      of datasets/prepare_objects365.py
    objects365_v2/{train,val}/...                                 the unpacked patches

The official JSON says ``images/v1/patch8/x.jpg`` where the training patches unpack to
``patch8/x.jpg``, has boxes that leave the image, and names three images that no patch holds; the
prepared one has paths below ``train`` and ``val`` as they are on the disk, boxes clipped, and only
images that exist. Class names are spelled as in the official JSON.
"""

from __future__ import annotations

import os

from gppf_d2.data.registration import register_coco_json

CLASSES = tuple(
    """
Person|Sneakers|Chair|Other Shoes|Hat|Car|Lamp|Glasses|Bottle|Desk|Cup|Street Lights|
Cabinet/shelf|Handbag/Satchel|Bracelet|Plate|Picture/Frame|Helmet|Book|Gloves|Storage box|Boat|
Leather Shoes|Flower|Bench|Potted Plant|Bowl/Basin|Flag|Pillow|Boots|Vase|Microphone|Necklace|
Ring|SUV|Wine Glass|Belt|Moniter/TV|Backpack|Umbrella|Traffic Light|Speaker|Watch|Tie|
Trash bin Can|Slippers|Bicycle|Stool|Barrel/bucket|Van|Couch|Sandals|Bakset|Drum|Pen/Pencil|Bus|
Wild Bird|High Heels|Motorcycle|Guitar|Carpet|Cell Phone|Bread|Camera|Canned|Truck|Traffic cone|
Cymbal|Lifesaver|Towel|Stuffed Toy|Candle|Sailboat|Laptop|Awning|Bed|Faucet|Tent|Horse|Mirror|
Power outlet|Sink|Apple|Air Conditioner|Knife|Hockey Stick|Paddle|Pickup Truck|Fork|
Traffic Sign|Ballon|Tripod|Dog|Spoon|Clock|Pot|Cow|Cake|Dinning Table|Sheep|Hanger|
Blackboard/Whiteboard|Napkin|Other Fish|Orange/Tangerine|Toiletry|Keyboard|Tomato|Lantern|
Machinery Vehicle|Fan|Green Vegetables|Banana|Baseball Glove|Airplane|Mouse|Train|Pumpkin|
Soccer|Skiboard|Luggage|Nightstand|Tea pot|Telephone|Trolley|Head Phone|Sports Car|Stop Sign|
Dessert|Scooter|Stroller|Crane|Remote|Refrigerator|Oven|Lemon|Duck|Baseball Bat|
Surveillance Camera|Cat|Jug|Broccoli|Piano|Pizza|Elephant|Skateboard|Surfboard|Gun|
Skating and Skiing shoes|Gas stove|Donut|Bow Tie|Carrot|Toilet|Kite|Strawberry|Other Balls|
Shovel|Pepper|Computer Box|Toilet Paper|Cleaning Products|Chopsticks|Microwave|Pigeon|Baseball|
Cutting/chopping Board|Coffee Table|Side Table|Scissors|Marker|Pie|Ladder|Snowboard|Cookies|
Radiator|Fire Hydrant|Basketball|Zebra|Grape|Giraffe|Potato|Sausage|Tricycle|Violin|Egg|
Fire Extinguisher|Candy|Fire Truck|Billards|Converter|Bathtub|Wheelchair|Golf Club|Briefcase|
Cucumber|Cigar/Cigarette|Paint Brush|Pear|Heavy Truck|Hamburger|Extractor|Extention Cord|Tong|
Tennis Racket|Folder|American Football|earphone|Mask|Kettle|Tennis|Ship|Swing|Coffee Machine|
Slide|Carriage|Onion|Green beans|Projector|Frisbee|Washing Machine/Drying Machine|Chicken|
Printer|Watermelon|Saxophone|Tissue|Toothbrush|Ice cream|Hotair ballon|Cello|French Fries|Scale|
Trophy|Cabbage|Hot dog|Blender|Peach|Rice|Wallet/Purse|Volleyball|Deer|Goose|Tape|Tablet|
Cosmetics|Trumpet|Pineapple|Golf Ball|Ambulance|Parking meter|Mango|Key|Hurdle|Fishing Rod|
Medal|Flute|Brush|Penguin|Megaphone|Corn|Lettuce|Garlic|Swan|Helicopter|Green Onion|Sandwich|
Nuts|Speed Limit Sign|Induction Cooker|Broom|Trombone|Plum|Rickshaw|Goldfish|Kiwi fruit|
Router/modem|Poker Card|Toaster|Shrimp|Sushi|Cheese|Notepaper|Cherry|Pliers|CD|Pasta|Hammer|Cue|
Avocado|Hamimelon|Flask|Mushroon|Screwdriver|Soap|Recorder|Bear|Eggplant|Board Eraser|Coconut|
Tape Measur/ Ruler|Pig|Showerhead|Globe|Chips|Steak|Crosswalk Sign|Stapler|Campel|Formula 1|
Pomegranate|Dishwasher|Crab|Hoverboard|Meat ball|Rice Cooker|Tuba|Calculator|Papaya|Antelope|
Parrot|Seal|Buttefly|Dumbbell|Donkey|Lion|Urinal|Dolphin|Electric Drill|Hair Dryer|Egg tart|
Jellyfish|Treadmill|Lighter|Grapefruit|Game board|Mop|Radish|Baozi|Target|French|Spring Rolls|
Monkey|Rabbit|Pencil Case|Yak|Red Cabbage|Binoculars|Asparagus|Barbell|Scallop|Noddles|Comb|
Dumpling|Oyster|Table Teniis paddle|Cosmetics Brush/Eyeliner Pencil|Chainsaw|Eraser|Lobster|
Durian|Okra|Lipstick|Cosmetics Mirror|Curling|Table Tennis
""".replace("\n", "").split("|")
)


def register(root: str) -> None:
    """Register ``objects365_v2_{train,val}``; ``root`` is the folder that holds
    ``objects365_v2``."""
    folder = os.path.join(root, "objects365_v2")
    hint = f"unpack Objects365 v2 and run `python datasets/prepare_objects365.py --root {root}`"
    for split in ("train", "val"):
        register_coco_json(
            f"objects365_v2_{split}",
            root,
            os.path.join(folder, "annotations", f"objects365_v2_{split}.json"),
            os.path.join(folder, split),
            {index + 1: name for index, name in enumerate(CLASSES)},
            hint=hint,
        )
