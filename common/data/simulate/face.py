"""The strokes of which the face is painted: shapes in template mm (x right, y front, z up) and Hounsfield units; see `head_atlas.py`.

A stroke is (kind, places, HU). Kinds: "one" (centre, radii) is an ellipsoid, "both" adds its mirror image, "tubes" (start, stop, (radius,
0, 0)) is a capsule and its mirror image. Later strokes cover earlier ones.
Source of the values: fat -100 to -80 HU, muscle 45-65, vitreous 5-15, lens 60-100, cancellous bone 300-700, cortical bone above 1000
(common textbook ranges).
"""

from __future__ import annotations

Triple = tuple[float, float, float]
Stroke = tuple[str, tuple[Triple, ...], float]

STROKES: tuple[Stroke, ...] = (
    ("both", ((44, 52, -66), (20, 22, 26)), -95.0),  # buccal fat
    ("tubes", ((50, 6, -58), (46, 14, -112), (11.0, 0.0, 0.0)), 58.0),  # masseter and pterygoids
    ("both", ((29, 52, -38), (22, 30, 22)), 900.0),  # orbital walls
    ("both", ((29, 55, -38), (19, 29, 19)), -88.0),  # orbital fat
    ("both", ((31, 66, -38), (13, 12, 13)), 70.0),  # sclera
    ("both", ((31, 66, -38), (11, 10, 11)), 10.0),  # vitreous
    ("both", ((31, 74, -38), (4.5, 2.5, 4.5)), 85.0),  # lens
    ("tubes", ((29, 55, -38), (11, 18, -30), (2.4, 0.0, 0.0)), 35.0),  # optic nerve
    ("tubes", ((42, 62, -38), (14, 22, -34), (2.0, 0.0, 0.0)), 55.0),  # lateral rectus
    ("one", ((0, 50, -40), (14, 24, 14)), 500.0),  # ethmoid
    ("one", ((0, 62, -62), (15, 34, 20)), 650.0),  # nasal walls
    ("one", ((0, 62, -62), (13, 33, 18)), -960.0),  # nasal cavity
    ("tubes", ((8, 40, -66), (8, 82, -66), (3.6, 0.0, 0.0)), 45.0),  # lower turbinates
    ("tubes", ((6.5, 40, -54), (6.5, 74, -54), (2.4, 0.0, 0.0)), 45.0),  # middle turbinates
    ("one", ((0, 60, -60), (1.2, 34, 19)), 260.0),  # septum
    ("one", ((0, 94, -48), (5, 8, 10)), 750.0),  # nasal bone
    ("one", ((0, 104, -66), (9, 9, 9)), 40.0),  # tip of the nose
    ("both", ((27, 50, -68), (16, 19, 18)), 850.0),  # maxillary walls
    ("both", ((27, 50, -68), (13.5, 16.5, 15.5)), -970.0),  # maxillary sinus
    ("one", ((0, 58, -88), (28, 32, 5)), 800.0),  # palate
    ("one", ((0, 70, -96), (25, 22, 10)), 1000.0),  # teeth and alveolar bone
    ("one", ((0, 52, -100), (22, 28, 12)), 60.0),  # tongue
    ("both", ((48, 58, -56), (9, 10, 10)), 850.0),  # cheek bone
    ("tubes", ((52, 54, -56), (68, 0, -52), (3.2, 0.0, 0.0)), 900.0),  # zygomatic arch
    ("tubes", ((55, -8, -56), (50, 4, -110), (4.5, 0.0, 0.0)), 1000.0),  # ramus of the mandible
    ("tubes", ((50, 6, -110), (10, 82, -116), (6.0, 0.0, 0.0)), 1000.0),  # body of the mandible
    ("one", ((0, 18, -52), (17, 18, 16)), 700.0),  # sphenoid
    ("both", ((9, 20, -46), (7.5, 12, 9)), -975.0),  # sphenoid sinus
    ("both", ((14, 20, -72), (3, 8, 16)), 700.0),  # pterygoid plates
    ("one", ((0, 8, -84), (13, 9, 26)), -980.0),  # nasopharynx
    ("one", ((0, -4, -88), (20, 5, 30)), 60.0),  # prevertebral muscle
    ("tubes", ((0, 2, -48), (0, -24, -74), (7.0, 0.0, 0.0)), 500.0),  # clivus
    ("both", ((19, -32, -72), (8, 12, 8)), 850.0),  # occipital condyles
    ("both", ((22, -36, -84), (10, 10, 6)), 750.0),  # lateral masses of the atlas
    ("one", ((0, -21, -86), (5, 5, 14)), 900.0),  # dens
    ("one", ((0, -18, -108), (15, 10, 12)), 500.0),  # axis
    ("tubes", ((26, -42, -86), (0, -66, -84), (3.5, 0.0, 0.0)), 900.0),  # arch of the atlas
    ("tubes", ((84, -24, -46), (52, -24, -44), (3.2, 0.0, 0.0)), -950.0),  # ear canals
    ("tubes", ((30, -28, -74), (32, -20, -116), (4.0, 0.0, 0.0)), 48.0),  # jugular and carotid
)

AIR: tuple[tuple[str, tuple[Triple, ...]], ...] = (
    ("both", ((11, 84, -14), (9, 5, 13))),  # frontal sinus
    ("both", ((9, 20, -46), (7.5, 12, 9))),  # sphenoid sinus
    ("tubes", ((84, -24, -46), (52, -24, -44), (3.2, 0.0, 0.0))),  # ear canals
    ("both", ((50, -24, -42), (5, 5, 6))),  # middle ears
)
"""Air cells, also inside the bone of the skull."""

BASE: tuple[tuple[str, tuple[Triple, ...]], ...] = (
    ("tubes", ((56, -40, -36), (14, -12, -40), (7.5, 0.0, 0.0))),  # petrous bones
    ("tubes", ((14, 12, -28), (52, 18, -24), (3.2, 0.0, 0.0))),  # lesser wings of the sphenoid
    ("one", ((0, -7, -38), (9, 3, 5))),  # dorsum sellae
    ("one", ((0, 62, -30), (2, 10, 5))),  # crista galli
    ("one", ((0, -100, -34), (2.5, 14, 10))),  # internal occipital crest
)
"""Bone inside the hull of the brain: it fills what is not brain."""
