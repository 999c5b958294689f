"""Open Images, challenge 2019: detection, 500 classes in a hierarchy, 1.7 M training images.

    openimages_challenge_2019/annotations/challenge-2019-*.{csv,json}            official
    openimages_challenge_2019/annotations/openimages_challenge_2019_{train,val}.json
                                                            datasets/prepare_open_images.py
    openimages_challenge_2019/{train,validation}/...        images, flat or in train_0 ... train_f

Not every class is annotated in every image: only classes that were verified, by image-level labels,
are. Records say which: "pos_category_ids" are verified to be there (every object of theirs has a
box), "neg_category_ids" verified to be absent; nothing is known about the other classes. A box with
"isgroupof" 1 holds a group of objects; training leaves it out as it does crowds ("iscrowd" is 1
too). ``hierarchy_file`` of the metadata is the official tree of the classes, whose labels are in
``thing_mids`` in the order of ``thing_classes``.
"""

from __future__ import annotations

import os

from gppf_d2.data.registration import register_coco_json

# label and name, in the order of challenge-2019-classes-description-500.csv
LABELS = tuple(
    tuple(entry.split("=", 1))
    for entry in """
/m/061hd_=Infant bed|/m/06m11=Rose|/m/03120=Flag|/m/01kb5b=Flashlight|/m/0120dh=Sea turtle|
/m/0dv5r=Camera|/m/0jbk=Animal|/m/0174n1=Glove|/m/09f_2=Crocodile|/m/01xq0k1=Cattle|
/m/03jm5=House|/m/02g30s=Guacamole|/m/05z6w=Penguin|/m/01jfm_=Vehicle registration plate|
/m/076lb9=Bench|/m/0gj37=Ladybug|/m/0k0pj=Human nose|/m/0kpqd=Watermelon|/m/0l14j_=Flute|
/m/0cyf8=Butterfly|/m/0174k2=Washing machine|/m/0dq75=Raccoon|/m/076bq=Segway|/m/07crc=Taco|
/m/0d8zb=Jellyfish|/m/0fszt=Cake|/m/0k1tl=Pen|/m/020kz=Cannon|/m/09728=Bread|/m/07j7r=Tree|
/m/0fbdv=Shellfish|/m/03ssj5=Bed|/m/03qrc=Hamster|/m/02dl1y=Hat|/m/01k6s3=Toaster|
/m/02jfl0=Sombrero|/m/01krhy=Tiara|/m/04kkgm=Bowl|/m/0ft9s=Dragonfly|
/m/0d_2m=Moths and butterflies|/m/0czz2=Antelope|/m/0f4s2w=Vegetable|/m/07dd4=Torch|
/m/0cgh4=Building|/m/03bbps=Power plugs and sockets|/m/02pjr4=Blender|/m/04p0qw=Billiard table|
/m/02pdsw=Cutting board|/m/01yx86=Bronze sculpture|/m/09dzg=Turtle|/m/0hkxq=Broccoli|
/m/07dm6=Tiger|/m/054_l=Mirror|/m/01dws=Bear|/m/027pcv=Zucchini|/m/01d40f=Dress|
/m/02rgn06=Volleyball|/m/0342h=Guitar|/m/06bt6=Reptile|/m/0323sq=Golf cart|/m/02zvsm=Tart|
/m/02fq_6=Fedora|/m/01lrl=Carnivore|/m/0k4j=Car|/m/04h7h=Lighthouse|/m/07xyvk=Coffeemaker|
/m/03y6mg=Food processor|/m/07r04=Truck|/m/03__z0=Bookcase|/m/019w40=Surfboard|
/m/09j5n=Footwear|/m/0cvnqh=Bench|/m/01llwg=Necklace|/m/0c9ph5=Flower|/m/015x5n=Radish|
/m/0gd2v=Marine mammal|/m/04v6l4=Frying pan|/m/02jz0l=Tap|/m/0dj6p=Peach|/m/04ctx=Knife|
/m/080hkjn=Handbag|/m/01c648=Laptop|/m/01j61q=Tent|/m/012n7d=Ambulance|/m/025nd=Christmas tree|
/m/09csl=Eagle|/m/01lcw4=Limousine|/m/0h8n5zk=Kitchen & dining room table|/m/0633h=Polar bear|
/m/01fdzj=Tower|/m/01226z=Football|/m/0mw_6=Willow|/m/04hgtk=Human head|/m/02pv19=Stop sign|
/m/09qck=Banana|/m/063rgb=Mixer|/m/0lt4_=Binoculars|/m/0270h=Dessert|/m/01h3n=Bee|
/m/01mzpv=Chair|/m/04169hn=Wood-burning stove|/m/0fm3zh=Flowerpot|/m/0d20w4=Beaker|
/m/0_cp5=Oyster|/m/01dy8n=Woodpecker|/m/03m5k=Harp|/m/03dnzn=Bathtub|/m/0h8mzrc=Wall clock|
/m/0h8mhzd=Sports uniform|/m/03d443=Rhinoceros|/m/01gllr=Beehive|/m/0642b4=Cupboard|
/m/09b5t=Chicken|/m/04yx4=Man|/m/01f8m5=Blue jay|/m/015x4r=Cucumber|/m/01j51=Balloon|
/m/02zt3=Kite|/m/03tw93=Fireplace|/m/01jfsr=Lantern|/m/04ylt=Missile|/m/0bt_c3=Book|
/m/0cmx8=Spoon|/m/0hqkz=Grapefruit|/m/071qp=Squirrel|/m/0cyhj_=Orange|/m/01xygc=Coat|
/m/0420v5=Punching bag|/m/0898b=Zebra|/m/01knjb=Billboard|/m/0199g=Bicycle|
/m/03c7gz=Door handle|/m/02x984l=Mechanical fan|/m/04zwwv=Ring binder|/m/04bcr3=Table|
/m/0gv1x=Parrot|/m/01nq26=Sock|/m/02s195=Vase|/m/083kb=Weapon|/m/06nrc=Shotgun|/m/0jyfg=Glasses|
/m/0nybt=Seahorse|/m/0176mf=Belt|/m/01rzcn=Watercraft|/m/0d4v4=Window|/m/03bk1=Giraffe|
/m/096mb=Lion|/m/0h9mv=Tire|/m/07yv9=Vehicle|/m/0ph39=Canoe|/m/01rkbr=Tie|/m/0gjbg72=Shelf|
/m/06z37_=Picture frame|/m/01m4t=Printer|/m/035r7c=Human leg|/m/019jd=Boat|
/m/02tsc9=Slow cooker|/m/015wgc=Croissant|/m/0c06p=Candle|/m/01dwwc=Pancake|/m/034c16=Pillow|
/m/0242l=Coin|/m/02lbcq=Stretcher|/m/03nfch=Sandal|/m/03bt1vf=Woman|/m/01lynh=Stairs|
/m/03q5t=Harpsichord|/m/0fqt361=Stool|/m/01bjv=Bus|/m/01s55n=Suitcase|/m/0283dt1=Human mouth|
/m/01z1kdw=Juice|/m/016m2d=Skull|/m/02dgv=Door|/m/07y_7=Violin|/m/01_5g=Chopsticks|
/m/06_72j=Digital clock|/m/0ftb8=Sunflower|/m/0c29q=Leopard|/m/0jg57=Bell pepper|
/m/02l8p9=Harbor seal|/m/078jl=Snake|/m/0llzx=Sewing machine|/m/0dbvp=Goose|/m/09ct_=Helicopter|
/m/0dkzw=Seat belt|/m/02p5f1q=Coffee cup|/m/0fx9l=Microwave oven|/m/01b9xk=Hot dog|
/m/0b3fp9=Countertop|/m/0h8n27j=Serving tray|/m/0h8n6f9=Dog bed|/m/01599=Beer|
/m/017ftj=Sunglasses|/m/044r5d=Golf ball|/m/01dwsz=Waffle|/m/0cdl1=Palm tree|/m/07gql=Trumpet|
/m/0hdln=Ruler|/m/0zvk5=Helmet|/m/012w5l=Ladder|/m/021sj1=Office building|
/m/0bh9flk=Tablet computer|/m/09gtd=Toilet paper|/m/0jwn_=Pomegranate|/m/02wv6h6=Skirt|
/m/02wv84t=Gas stove|/m/021mn=Cookie|/m/018p4k=Cart|/m/06j2d=Raven|/m/033cnk=Egg|
/m/01j3zr=Burrito|/m/03fwl=Goat|/m/058qzx=Kitchen knife|/m/06_fw=Skateboard|
/m/02x8cch=Salt and pepper shakers|/m/04g2r=Lynx|/m/01b638=Boot|/m/099ssp=Platter|/m/071p9=Ski|
/m/01gkx_=Swimwear|/m/0b_rs=Swimming pool|/m/03v5tg=Drinking straw|/m/01j5ks=Wrench|
/m/026t6=Drum|/m/0_k2=Ant|/m/039xj_=Human ear|/m/01b7fy=Headphones|/m/0220r2=Fountain|
/m/015p6=Bird|/m/0fly7=Jeans|/m/07c52=Television|/m/0n28_=Crab|/m/0hg7b=Microphone|
/m/019dx1=Home appliance|/m/04vv5k=Snowplow|/m/020jm=Beetle|/m/047v4b=Artichoke|
/m/01xs3r=Jet ski|/m/03kt2w=Stationary bicycle|/m/03q69=Human hair|/m/01dxs=Brown bear|
/m/01h8tj=Starfish|/m/0dt3t=Fork|/m/0cjq5=Lobster|/m/0h8lkj8=Corded phone|/m/0271t=Drink|
/m/03q5c7=Saucer|/m/0fj52s=Carrot|/m/03vt0=Insect|/m/01x3z=Clock|/m/0d5gx=Castle|
/m/0h8my_4=Tennis racket|/m/03ldnb=Ceiling fan|/m/0cjs7=Asparagus|/m/0449p=Jaguar|
/m/04szw=Musical instrument|/m/07jdr=Train|/m/01yrx=Cat|/m/06c54=Rifle|/m/04h8sr=Dumbbell|
/m/050k8=Mobile phone|/m/0pg52=Taxi|/m/02f9f_=Shower|/m/054fyh=Pitcher|/m/09k_b=Lemon|
/m/03xxp=Invertebrate|/m/0jly1=Turkey|/m/06k2mb=High heels|/m/04yqq2=Bust|/m/0bwd_0j=Elephant|
/m/02h19r=Scarf|/m/02zn6n=Barrel|/m/07c6l=Trombone|/m/05zsy=Pumpkin|/m/025dyy=Box|
/m/07j87=Tomato|/m/09ld4=Frog|/m/01vbnl=Bidet|/m/0dzct=Human face|/m/03fp41=Houseplant|
/m/0h2r6=Van|/m/0by6g=Shark|/m/0cxn2=Ice cream|/m/04tn4x=Swim cap|/m/0f6wt=Falcon|
/m/05n4y=Ostrich|/m/0gxl3=Handgun|/m/02d9qx=Whiteboard|/m/04m9y=Lizard|/m/05z55=Pasta|
/m/01x3jk=Snowmobile|/m/0h8l4fh=Light bulb|/m/031b6r=Window blind|/m/01tcjp=Muffin|
/m/01f91_=Pretzel|/m/02522=Computer monitor|/m/0319l=Horn|/m/0c_jw=Furniture|/m/0l515=Sandwich|
/m/0306r=Fox|/m/0crjs=Convenience store|/m/0ch_cf=Fish|/m/02xwb=Fruit|/m/01r546=Earrings|
/m/03rszm=Curtain|/m/0388q=Grape|/m/03m3pdh=Sofa bed|/m/03k3r=Horse|/m/0hf58v5=Luggage and bags|
/m/01y9k5=Desk|/m/05441v=Crutch|/m/03p3bw=Bicycle helmet|/m/0175cv=Tick|/m/0cmf2=Airplane|
/m/0ccs93=Canary|/m/02d1br=Spatula|/m/0gjkl=Watch|/m/0jqgx=Lily|/m/0h99cwc=Kitchen appliance|
/m/047j0r=Filing cabinet|/m/0k5j=Aircraft|/m/0h8n6ft=Cake stand|/m/0gm28=Candy|/m/0130jx=Sink|
/m/04rmv=Mouse|/m/081qc=Wine|/m/0qmmr=Wheelchair|/m/03fj2=Goldfish|/m/040b_t=Refrigerator|
/m/02y6n=French fries|/m/0fqfqc=Drawer|/m/030610=Treadmill|/m/07kng9=Picnic basket|
/m/029b3=Dice|/m/0fbw6=Cabbage|/m/07qxg_=Football helmet|/m/068zj=Pig|/m/01g317=Person|
/m/01bfm9=Shorts|/m/02068x=Gondola|/m/0fz0h=Honeycomb|/m/0jy4k=Doughnut|
/m/05kyg_=Chest of drawers|/m/01prls=Land vehicle|/m/01h44=Bat|/m/08pbxl=Monkey|/m/02gzp=Dagger|
/m/04brg2=Tableware|/m/031n1=Human foot|/m/02jvh9=Mug|/m/046dlr=Alarm clock|
/m/0h8ntjv=Pressure cooker|/m/0k65p=Human hand|/m/011k07=Tortoise|/m/03grzl=Baseball glove|
/m/06y5r=Sword|/m/061_f=Pear|/m/01cmb2=Miniskirt|/m/01mqdt=Traffic sign|/m/05r655=Girl|
/m/02p3w7d=Roller skates|/m/029tx=Dinosaur|/m/04m6gz=Porch|/m/015h_t=Human beard|
/m/06pcq=Submarine sandwich|/m/01bms0=Screwdriver|/m/07fbm7=Strawberry|/m/09tvcd=Wine glass|
/m/06nwz=Seafood|/m/0dv9c=Racket|/m/083wq=Wheel|/m/0gd36=Sea lion|/m/0138tl=Toy|/m/07clx=Tea|
/m/05ctyq=Tennis ball|/m/0bjyj5=Waste container|/m/0dbzx=Mule|/m/02ctlc=Cricket ball|
/m/0fp6w=Pineapple|/m/0djtd=Coconut|/m/0167gd=Doll|/m/078n6m=Coffee table|/m/0152hh=Snowman|
/m/04gth=Lavender|/m/0ll1f78=Shrimp|/m/0cffdh=Maple|/m/025rp__=Cowboy hat|/m/02_n6y=Goggles|
/m/0wdt60w=Rugby ball|/m/0cydv=Caterpillar|/m/01n5jq=Poster|/m/09rvcxw=Rocket|/m/013y1f=Organ|
/m/06ncr=Saxophone|/m/015qff=Traffic light|/m/024g6=Cocktail|/m/05gqfk=Plastic bag|
/m/0dv77=Squash|/m/052sf=Mushroom|/m/0cdn1=Hamburger|/m/03jbxj=Light switch|/m/0cyfs=Parachute|
/m/0kmg4=Teddy bear|/m/02cvgx=Winter melon|/m/09kx5=Deer|/m/057cc=Musical keyboard|
/m/02pkr5=Plumbing fixture|/m/057p5t=Scoreboard|/m/03g8mr=Baseball bat|/m/0frqm=Envelope|
/m/03m3vtv=Adhesive tape|/m/0584n8=Briefcase|/m/014y4n=Paddle|/m/01g3x7=Bow and arrow|
/m/07cx4=Telephone|/m/07bgp=Sheep|/m/032b3c=Jacket|/m/01bl7v=Boy|/m/0663v=Pizza|/m/0cn6p=Otter|
/m/02rdsp=Office supplies|/m/02crq1=Couch|/m/01xqw=Cello|/m/0cnyhnx=Bull|/m/01x_v=Camel|
/m/018xm=Ball|/m/09ddx=Duck|/m/084zz=Whale|/m/01n4qj=Shirt|/m/07cmd=Tank|/m/04_sv=Motorcycle|
/m/0mkg=Accordion|/m/09d5_=Owl|/m/0c568=Porcupine|/m/02wbtzl=Sun hat|/m/05bm6=Nail|
/m/01lsmm=Scissors|/m/0dftk=Swan|/m/0dtln=Lamp|/m/0nl46=Crown|/m/05r5c=Piano|/m/06msq=Sculpture|
/m/0cd4d=Cheetah|/m/05kms=Oboe|/m/02jnhm=Tin can|/m/0fldg=Mango|/m/073bxn=Tripod|/m/029bxz=Oven|
/m/020lf=Mouse|/m/01btn=Barge|/m/02vqfm=Coffee|/m/06__v=Snowboard|/m/043nyj=Common fig|
/m/0grw1=Salad|/m/03hl4l9=Marine invertebrates|/m/0hnnb=Umbrella|/m/04c0y=Kangaroo|
/m/0dzf4=Human arm|/m/07v9_z=Measuring cup|/m/0f9_l=Snail|/m/0703r8=Loveseat|/m/01xyhv=Suit|
/m/01fh4r=Teapot|/m/04dr76w=Bottle|/m/0pcr=Alpaca|/m/03s_tn=Kettle|/m/07mhn=Trousers|
/m/01hrv5=Popcorn|/m/019h78=Centipede|/m/09kmb=Spider|/m/0h23m=Sparrow|/m/050gv4=Plate|
/m/01fb_0=Bagel|/m/02w3_ws=Personal care|/m/014j1m=Apple|/m/01gmv2=Brassiere|
/m/04y4h8h=Bathroom cabinet|/m/026qbn5=studio couch|/m/01m2v=Computer keyboard|
/m/05_5p_0=Table tennis racket|/m/07030=Sushi|/m/01s105=Cabinetry|/m/033rq4=Street light|
/m/0162_1=Towel|/m/02z51p=Nightstand|/m/06mf6=Rabbit|/m/02hj4=Dolphin|/m/0bt9lr=Dog|
/m/08hvt4=Jug|/m/084rd=Wok|/m/01pns0=Fire hydrant|/m/014sv8=Human eye|/m/079cl=Skyscraper|
/m/01940j=Backpack|/m/05vtc=Potato|/m/02w3r3=Paper towel|/m/054xkw=Lifejacket|
/m/01bqk0=Bicycle wheel|/m/09g1w=Toilet
""".replace("\n", "").split("|")
)
FOLDERS = {"train": "train", "val": "validation"}


def register(root: str) -> None:
    """Register ``openimages_challenge_2019_{train,val}``; ``root`` is the folder that holds
    ``openimages_challenge_2019``."""
    folder = os.path.join(root, "openimages_challenge_2019")
    annotations = os.path.join(folder, "annotations")
    for split, images in FOLDERS.items():
        name = f"openimages_challenge_2019_{split}"
        register_coco_json(
            name,
            root,
            os.path.join(annotations, f"{name}.json"),
            os.path.join(folder, images),
            {index + 1: name for index, (_, name) in enumerate(LABELS)},
            hint="put the images and CSV files of the challenge there and run "
            f"`python datasets/prepare_open_images.py --root {root}`",
            annotation_keys=("isgroupof",),
            category_lists=("pos_category_ids", "neg_category_ids"),
            thing_mids=[mid for mid, _ in LABELS],
            hierarchy_file=os.path.join(annotations, "challenge-2019-label500-hierarchy.json"),
            evaluator_type="open_images",
        )
