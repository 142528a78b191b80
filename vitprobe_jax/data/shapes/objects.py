"""The things of `shapes`: each an assembly of labelled parts, in a brush's coordinates (see `shapes.drawing`)."""

import math
from collections.abc import Callable

from vitprobe_jax.data.shapes.drawing import Brush, Number, box, ellipse, limb, polygon, ring


def _four_panes(b: Brush, x: Number, y: Number, w: Number, h: Number, *parts: str) -> None:
    """A frame with four panes, standing at (x, y)."""
    bar = 0.07 * (w + h)
    pane_w, pane_h = (w - 3 * bar) / 2, (h - 3 * bar) / 2
    b.paint(box(x, y, x + w, y + h), "wood", *parts, relief=0.2)
    panes = [
        box(left, low, left + pane_w, low + pane_h)
        for left in (x + bar, x + 2 * bar + pane_w)
        for low in (y + bar, y + 2 * bar + pane_h)
    ]
    b.paint(panes, "glass", *parts, "pane", relief=0.0)


def _tyre(b: Brush, x: Number, y: Number, radius: Number, *parts: str) -> None:
    b.paint(ellipse(x, y, radius, radius), "rubber", *parts, relief=0.3)
    b.paint(ellipse(x, y, 0.58 * radius, 0.58 * radius), "metal", *parts, "hub")
    b.paint(ellipse(x, y, 0.16 * radius, 0.16 * radius), "_dark", *parts, "hub")


def _spokes(b: Brush, x: Number, y: Number, radius: Number, material: str, width: float, *parts: str) -> None:
    spokes = []
    for i in range(4):
        dx, dy = radius * math.cos(i * math.pi / 4 + 0.3), radius * math.sin(i * math.pi / 4 + 0.3)
        spokes.append(limb(x - dx, y - dy, x + dx, y + dy, 0.5 * width))
    b.paint([ring(x, y, radius, width), *spokes], material, *parts, relief=0.3)
    b.paint(ellipse(x, y, 1.4 * width, 1.4 * width), "metal", *parts, "hub")


def _eye(b: Brush, x: Number, y: Number, radius: Number, *parts: str) -> None:
    b.paint(ellipse(x, y, radius, radius), "_white", *parts, "eye", relief=0.2)
    b.paint(ellipse(x + 0.2 * radius, y, 0.55 * radius, 0.55 * radius), "_dark", *parts, "eye", relief=0.0)


def _house(b: Brush) -> None:
    half, eaves = b.uniform(0.36, 0.62), b.uniform(0.5, 0.64)
    ridge = half * b.uniform(0.3, 0.75) if b.chance(0.5) else 0.0
    if b.chance(0.6):
        x = half * b.uniform(0.3, 0.6)
        b.paint(box(x - 0.06, eaves, x + 0.06, b.uniform(0.95, 1.08)), "brick", "chimney")
    b.paint(box(-half, 0, half, eaves), b.pick("brick", "brick", "wood", "plaster", "stone"), relief=0.15)
    over = half + b.uniform(0.04, 0.1)
    roof = polygon((-over, eaves - 0.03), (over, eaves - 0.03), (ridge, 1), (-ridge, 1))
    b.paint(roof, b.pick("wood", "stone", "metal", "brick"), "roof", relief=0.2)
    door = half * b.uniform(-0.6, 0.3)
    door_w, door_h = b.uniform(0.17, 0.23), 0.62 * eaves
    b.paint(box(door, 0, door + door_w, door_h), b.pick("wood", "wood", "metal"), "door")
    b.paint(ellipse(door + 0.82 * door_w, 0.45 * door_h, 0.024, 0.024), "metal", "door", "knob")
    side = b.uniform(0.18, 0.26)
    for x in (-0.9 * half, 0.9 * half - side):
        if x + side < door - 0.02 or x > door + door_w + 0.02:
            _four_panes(b, x, 0.42 * eaves, side, 0.45 * eaves, "window")
    if ridge == 0 and b.chance(0.5):
        b.paint(ellipse(0, eaves + 0.16, 0.075, 0.075), "glass", "window", relief=0.0)


def _tree(b: Brush) -> None:
    lean = b.uniform(-0.05, 0.05)
    if b.chance(0.35):
        b.paint(limb(0, 0, 0, 0.35, 0.1, 0.06), "wood", "trunk")
        wide = b.uniform(0.24, 0.36)
        for low, scale in ((0.14, 1.0), (0.38, 0.78), (0.62, 0.5)):
            tier = polygon((-wide * scale, low), (wide * scale, low), (lean, low + 0.42))
            b.paint(tier, "foliage", "crown", relief=0.4)
        return
    width = b.uniform(0.08, 0.14)
    b.paint(limb(0, 0, lean, 0.6, width, 0.6 * width), "wood", "trunk")
    if b.chance(0.5):
        b.paint(limb(lean * 0.7, 0.36, 0.2, 0.6, 0.6 * width, 0.3 * width), "wood", "trunk")
    for _ in range(3):
        x, y = lean + b.uniform(-0.17, 0.17), b.uniform(0.58, 0.72)
        b.paint(b.blob(x, y, b.uniform(0.2, 0.28), b.uniform(0.18, 0.25)), "foliage", "crown", relief=0.6)


def _car(b: Brush) -> None:
    long, sill, belt = b.uniform(0.95, 1.2), 0.16, b.uniform(0.52, 0.6)
    front, back = b.uniform(0.35, 0.55), b.uniform(0.4, 0.9)
    cabin = polygon((-back * long, belt), (front * long, belt), (0.6 * front * long, 1), (-0.75 * back * long, 1))
    nose = polygon(
        (-long, sill), (long, sill), (long, 0.42), (0.9 * long, 0.5), (front * long, belt + 0.02), (-long, belt)
    )
    b.paint([cabin, nose], "metal", relief=0.5)
    low, high = belt + 0.03, 0.93
    left, right = -0.82 * back * long, 0.8 * front * long
    mid = b.uniform(-0.1, 0.1) * long
    panes = [
        polygon((left, low), (mid - 0.03, low), (mid - 0.03, high), (0.88 * left, high)),
        polygon((mid + 0.03, low), (right, low), (0.74 * right, high), (mid + 0.03, high)),
    ]
    b.paint(panes, "glass", "window", relief=0.1)
    b.paint(box(mid - 0.02, sill + 0.05, right * 0.95, low - 0.03), "metal", "door", relief=0.6)
    b.paint(box(mid + 0.04, 0.43, mid + 0.16, 0.47), "_dark", "door", "knob")
    b.paint(ellipse(0.93 * long, 0.4, 0.07, 0.06), "glass", "headlight", colour=(1.0, 0.95, 0.7))
    for x in (-0.6 * long, 0.6 * long):
        _tyre(b, x, 0.2, 0.22, "wheel")


def _cart(b: Brush) -> None:
    half, low = b.uniform(0.6, 0.8), 0.42
    if b.chance(0.5):
        b.paint(b.blob(0, 0.75, 0.8 * half, 0.3), b.pick("foliage", "sand", "stone"), relief=0.4)
    b.paint(limb(half, low + 0.08, half + 0.5, low + 0.2, 0.06), "wood", "arm")
    body = polygon((-0.9 * half, low), (0.9 * half, low), (half, 0.8), (-half, 0.8))
    b.paint(body, "wood", relief=0.2)
    for x in (-0.55 * half, 0.55 * half) if b.chance(0.6) else (0.0,):
        _spokes(b, x, 0.3, 0.3, "wood", 0.06, "wheel")


def _bicycle(b: Brush) -> None:
    for x in (-0.55, 0.55):
        _spokes(b, x, 0.33, 0.33, "rubber", 0.05, "wheel")
    bars = [((-0.55, 0.33), (-0.12, 0.3)), ((-0.55, 0.33), (-0.2, 0.75)), ((-0.2, 0.75), (-0.12, 0.3))]
    bars += [((-0.12, 0.3), (0.38, 0.78)), ((-0.2, 0.72), (0.38, 0.78)), ((0.55, 0.33), (0.34, 0.95))]
    b.paint([limb(*start, *stop, 0.055) for start, stop in bars], "metal", relief=0.2)
    b.paint(limb(-0.34, 0.82, -0.06, 0.82, 0.08), "fabric", "seat")
    b.paint(limb(0.22, 0.98, 0.4, 0.94, 0.06), "rubber", "arm")


def _boat(b: Brush) -> None:
    half, deck = b.uniform(0.4, 0.6), b.uniform(0.2, 0.26)
    hull = polygon((-half, deck), (-0.7 * half, 0), (0.65 * half, 0), (1.1 * half, deck + 0.05))
    if b.chance(0.7):
        x = b.uniform(-0.1, 0.1)
        b.paint(limb(x, deck - 0.05, x, 1, 0.04), b.pick("wood", "metal"), "mast")
        low, high = deck + 0.08, b.uniform(0.88, 0.97)
        b.paint(polygon((x + 0.03, low), (x + b.uniform(0.7, 1.0) * half, low), (x + 0.03, high)), "fabric", "sail")
        if b.chance(0.6):
            b.paint(polygon((x - 0.03, low), (x - b.uniform(0.5, 0.8) * half, low), (x - 0.03, 0.85)), "fabric", "sail")
    else:
        b.paint(box(-0.5 * half, deck - 0.02, 0.3 * half, 0.55), "wood", relief=0.2)
        b.paint(box(-0.3 * half, 0.32, 0.1 * half, 0.47), "glass", "window", relief=0.0)
        b.paint(limb(-0.1, 0.5, -0.1, 0.85, 0.1), "metal", "chimney")
    b.paint(hull, b.pick("wood", "wood", "metal"), "hull", relief=0.4)


def _fish(b: Brush) -> None:
    thick = b.uniform(0.3, 0.46)
    b.paint(polygon((-0.6, 0.5), (-1.1, 0.5 + thick), (-0.95, 0.5), (-1.1, 0.5 - thick)), "_scales", "tail")
    b.paint(polygon((-0.35, 0.5 + 0.7 * thick), (-0.3, 0.62 + thick), (0.25, 0.5 + 0.8 * thick)), "_scales", "fin")
    if b.chance(0.6):
        b.paint(polygon((-0.2, 0.5 - 0.8 * thick), (-0.3, 0.4 - thick), (0.1, 0.5 - 0.8 * thick)), "_scales", "fin")
    b.paint(ellipse(0, 0.5, 0.75, thick), "_scales", relief=0.8)
    cheek = ellipse(0, 0.5, 0.75, thick, start=-0.14, stop=0.14)
    b.paint(cheek, "_scales", "head", relief=0.4)
    b.paint(polygon((0.1, 0.48), (-0.22, 0.36), (-0.2, 0.55)), "_scales", "fin")
    _eye(b, 0.52, 0.5 + 0.3 * thick, 0.09, "head")


def _lamp(b: Brush) -> None:
    width = b.uniform(0.03, 0.045)
    b.paint([box(-width, 0, width, 0.8), box(-0.13, 0, 0.13, 0.05)], "metal", "pole", relief=0.6)
    top, low = b.uniform(0.06, 0.13), b.uniform(0.15, 0.22)
    shade = polygon((-low, 0.72), (low, 0.72), (top, 1), (-top, 1))
    glow = (1.0, b.uniform(0.85, 0.95), b.uniform(0.5, 0.75))
    b.paint(shade, b.pick("fabric", "glass"), "shade", colour=glow if b.chance(0.5) else None, relief=0.5)


def _person(b: Brush) -> None:
    hips, neck = 0.46, 0.78
    stride, swing = b.uniform(0.04, 0.13), b.uniform(0.05, 0.28)
    b.paint([limb(0.04, hips, stride, 0.0, 0.11, 0.07), limb(-0.04, hips, -stride, 0.0, 0.11, 0.07)], "fabric", "leg")
    b.paint([limb(x, 0.02, x + 0.06, 0.02, 0.05) for x in (-stride, stride)], "rubber", "leg")
    b.paint(limb(-0.1, neck - 0.04, -0.1 - swing, 0.5, 0.07, 0.05), "skin", "arm")
    torso = polygon((-0.11, hips - 0.04), (0.11, hips - 0.04), (0.14, neck), (-0.14, neck))
    if b.chance(0.3):
        torso = polygon((-0.2, 0.28), (0.2, 0.28), (0.11, neck), (-0.11, neck))
    b.paint(torso, "fabric", "torso")
    reach = b.uniform(0.45, 0.95)
    b.paint(limb(0.1, neck - 0.04, 0.12 + swing, reach, 0.07, 0.05), "skin", "arm")
    b.paint(ellipse(0, 0.89, 0.105, 0.115), "_hair", "head", relief=0.3)
    b.paint(ellipse(0.02, 0.87, 0.085, 0.1), "skin", "head")
    for x in (0.0, 0.065):
        b.paint(ellipse(x, 0.885, 0.014, 0.018), "_dark", "head", "eye", relief=0.0)


def _flower(b: Brush) -> None:
    tip = b.uniform(-0.1, 0.1)
    b.paint(limb(0, 0, tip, 0.72, 0.05, 0.04), "foliage", "stem")
    for side in (-1, 1):
        y = b.uniform(0.15, 0.35)
        leaf = polygon((0, y), (side * 0.14, y + 0.14), (side * 0.3, y + 0.12), (side * 0.16, y + 0.01))
        b.paint(leaf, "foliage", "leaf")
    num, long = int(b.uniform(5, 9)), b.uniform(0.16, 0.22)
    petals = []
    for i in range(num):
        angle = 2 * math.pi * i / num + tip
        petals.append(ellipse(tip + long * math.cos(angle), 0.75 + long * math.sin(angle), 0.5 * long, 0.5 * long))
    b.paint(petals, "_petal", "petal", relief=0.5)
    b.paint(ellipse(tip, 0.75, 0.55 * long, 0.55 * long), "_petal", colour=(0.95, 0.75, 0.2))


def _bird(b: Brush) -> None:
    legs = [limb(x, 0.3, x + 0.03, 0, 0.04) for x in (-0.08, 0.1)]
    b.paint(legs, "_beak", "leg", relief=0.0)
    b.paint(polygon((-0.35, 0.5), (-0.85, 0.66), (-0.8, 0.45), (-0.3, 0.38)), "_feathers", "tail")
    b.paint(ellipse(0, 0.48, 0.45, 0.26), "_feathers", relief=0.8)
    b.paint(polygon((0.5, 0.86), (0.8, 0.76), (0.52, 0.7)), "_beak", "beak", colour=(0.95, 0.6, 0.15))
    b.paint(ellipse(0.38, 0.76, 0.2, 0.19), "_feathers", "head")
    tip = b.uniform(0.2, 1.1)
    b.paint(polygon((0.2, 0.55), (-0.1, 0.68), (-0.5, tip), (-0.25, 0.42)), "_feathers", "wing")
    _eye(b, 0.44, 0.8, 0.06, "head")


def _sheep(b: Brush) -> None:
    b.paint([limb(x, 0.4, x + b.uniform(-0.05, 0.05), 0, 0.1, 0.07) for x in (-0.4, -0.22, 0.2, 0.38)], "_dark", "leg")
    b.paint(b.blob(-0.6, 0.62, 0.1, 0.1), "fur", "tail")
    b.paint(b.blob(0, 0.58, 0.56, 0.34, rough=0.05, lobes=10), "fur", relief=0.8)
    y = b.uniform(0.55, 0.82)
    b.paint(ellipse(0.62, y, 0.2, 0.17), "skin", "head")
    b.paint(b.blob(0.5, y + 0.14, 0.14, 0.09), "fur", "head")
    _eye(b, 0.66, y + 0.05, 0.045, "head")


def _table(b: Brush) -> None:
    half, material = b.uniform(0.6, 0.95), b.pick("wood", "wood", "metal", "glass")
    if b.chance(0.3):
        b.paint([limb(0, 0.9, 0, 0.05, 0.12), box(-0.3, 0, 0.3, 0.07)], "metal", "leg")
    else:
        legs = [limb(x, 0.9, 1.06 * x, low, 0.1, 0.07) for x, low in ((-0.85, 0), (-0.6, 0.1), (0.6, 0.1), (0.85, 0))]
        b.paint([leg * (half, 1) for leg in legs], b.pick("wood", "metal"), "leg")
    b.paint(polygon((-half, 0.82), (half, 0.82), (0.85 * half, 1), (-0.85 * half, 1)), material, "top", relief=0.1)
    b.paint(box(-half, 0.75, half, 0.83), material, "top", relief=0.0)


def _chair(b: Brush) -> None:
    wood = b.pick("wood", "metal")
    b.paint([limb(x, 0.45, 1.1 * x, 0, 0.06, 0.045) for x in (-0.24, -0.12, 0.16, 0.26)], wood, "leg")
    tilt = b.uniform(0.02, 0.12)
    b.paint(polygon((-0.29, 0.45), (-0.2, 0.45), (-0.2 - tilt, 1), (-0.29 - tilt, 1)), wood, "back")
    soft = b.pick("fabric", wood)
    b.paint(polygon((-0.2, 0.52), (-0.14, 0.52), (-0.14 - tilt, 0.96), (-0.2 - tilt, 0.96)), soft, "back")
    b.paint(polygon((-0.3, 0.42), (0.3, 0.42), (0.27, 0.53), (-0.27, 0.53)), soft, "seat")


def _umbrella(b: Brush) -> None:
    b.paint(limb(0, 0, 0, 0.95, 0.035), b.pick("wood", "metal"), "pole")
    half, low = b.uniform(0.42, 0.58), b.uniform(0.58, 0.68)
    b.paint(ellipse(0, low, half, 1 - low, start=0, stop=0.5), "fabric", "shade", relief=0.7)
    for i in (-1, 0.33):
        gore = ellipse(half * (i + 0.335), low, 0.335 * half, (1 - low) * (0.7 if i < 0 else 0.75), start=0, stop=0.5)
        b.paint(gore, "fabric", "shade", relief=0.7)


def _cactus(b: Brush) -> None:
    width = b.uniform(0.17, 0.26)
    arms = []
    for side in (-1, 1):
        y, reach, up = b.uniform(0.25, 0.5), side * b.uniform(0.24, 0.34), b.uniform(0.2, 0.35)
        thick = 0.65 * width
        arms += [limb(0, y, reach, y, thick), limb(reach, y - thick / 2, reach, y + up, thick)]
        arms.append(ellipse(reach, y + up, thick / 2, thick / 2))
    b.paint(arms, "foliage", "arm", relief=0.4)
    b.paint([box(-width / 2, 0, width / 2, 0.9), ellipse(0, 0.9, width / 2, 0.1)], "foliage", "trunk", relief=0.7)
    if b.chance(0.4):
        b.paint(b.blob(0, 1.0, 0.07, 0.06), "_petal", "petal")


def _painting(b: Brush) -> None:
    half = b.uniform(0.4, 0.75)
    b.paint(box(-half, 0, half, 1), b.pick("wood", "metal"), "frame", relief=0.3)
    b.paint(box(-half + 0.1, 0.1, half - 0.1, 0.9), "fabric", relief=0.0)
    b.paint(b.blob(b.uniform(-0.1, 0.1), 0.45, 0.5 * half, 0.22, rough=0.2, lobes=3), "_petal", relief=0.6)


def _rock(b: Brush) -> None:
    corners = [(-0.8, 0), (-0.65, b.uniform(0.4, 0.7)), (-0.2, b.uniform(0.8, 1)), (0.4, b.uniform(0.6, 1))]
    b.paint(polygon(*corners, (0.8, b.uniform(0.2, 0.4)), (0.9, 0)), "stone", relief=0.8)
    if b.chance(0.5):
        b.paint(polygon((0.2, 0), (0.35, b.uniform(0.25, 0.45)), (0.9, 0.3), (1.1, 0)), "stone", relief=0.8)


def _mushroom(b: Brush) -> None:
    b.paint(limb(0, 0, 0, 0.6, 0.3, 0.2), "_white", "stem")
    half, low = b.uniform(0.4, 0.6), b.uniform(0.45, 0.55)
    b.paint(ellipse(0, low, half, 1 - low, start=0, stop=0.5), "_petal", "top", relief=0.7)
    dots = [ellipse(x * half, low + y, 0.07, 0.055) for x, y in ((-0.55, 0.12), (-0.05, 0.3), (0.15, 0.1), (0.6, 0.13))]
    b.paint(dots, "_white", "top", relief=0.0)


def _wheel(b: Brush) -> None:
    if b.chance(0.5):
        _tyre(b, 0, 0.5, 0.5)
    else:
        _spokes(b, 0, 0.5, 0.5, "wood", 0.09)


def _window(b: Brush) -> None:
    half = b.uniform(0.35, 0.6)
    _four_panes(b, -half, 0, 2 * half, 1)
    if b.chance(0.5):
        drape = polygon(
            (-half - 0.1, 1.05), (-half + 0.22, 1.05), (-half + 0.05, 0.3), (-half, -0.1), (-half - 0.1, -0.1)
        )
        b.paint([drape, drape * (-1, 1)], "fabric", relief=0.6)


DRAW: dict[str, Callable[[Brush], None]] = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "cart": _cart,
    "bicycle": _bicycle,
    "boat": _boat,
    "fish": _fish,
    "lamp": _lamp,
    "person": _person,
    "flower": _flower,
    "bird": _bird,
    "sheep": _sheep,
    "table": _table,
    "chair": _chair,
    "umbrella": _umbrella,
    "cactus": _cactus,
    "painting": _painting,
    "rock": _rock,
    "mushroom": _mushroom,
    "wheel": _wheel,
    "window": _window,
}
"""By the name of the object."""
