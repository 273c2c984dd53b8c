"""Label spaces: owners' tables, maps among them, spaces from TOML; then the true samples where HOTSEG_DATA has them."""
import os
import pickle
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hotseg.core import HotsegError
from hotseg.labels import (CAMVID, CAMVID32, CAMVID32_TO_CAMVID, CITYSCAPES, CITYSCAPES20, CITYSCAPES34,
                           CITYSCAPES_TO_CAMVID, GTA5, IGNORE, KITTI, LABEL_SPACES, MAPS, MSRC, VOC, LabelSpace,
                           colourise, counterparts, decode, encode, from_colour, label_space, label_space_from_toml,
                           lost, map_lut, remap)

SPACES = LABEL_SPACES.values()
DATA = Path(os.environ.get("HOTSEG_DATA", "/nowhere"))
samples = pytest.mark.skipif(not (DATA/"samples"/"cityscapes").is_dir(), reason="HOTSEG_DATA has no samples")


def refuses(call, *words):
    "`call` must raise HotsegError whose text holds every word"
    with pytest.raises(HotsegError) as caught: call()
    for word in words: assert str(word) in str(caught.value), f"{word!r} is not in: {caught.value}"


# Tables

@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_stored_ids_go_there_and_back(space):
    ids = np.array([[*range(len(space)), IGNORE]], np.uint8)
    assert (encode(decode(ids, space), space) == ids).all() or not space.void_ids
    assert (space.encode_lut[[v % 256 for v in space.void_ids]] == IGNORE).all()
    assert (space.encode_lut < len(space)).sum() == len(space) == len(set(space.classes))


@pytest.mark.parametrize("space, name, colour, stored", [
    (CITYSCAPES34, "guard rail", (180, 165, 180), 14), (CITYSCAPES34, "trailer", (0, 0, 110), 30),
    (CITYSCAPES, "rider", (255, 0, 0), 25), (GTA5, "train", (0, 80, 100), 31), (KITTI, "bicycle", (119, 11, 32), 33),
    (VOC, "aeroplane", (128, 0, 0), 1), (VOC, "person", (192, 128, 128), 15), (VOC, "tvmonitor", (0, 64, 128), 20),
    (MSRC, "boat", (192, 128, 128), 15), (CAMVID32, "wall", (64, 192, 0), 31),
    (CAMVID32, "suv pickup truck", (64, 128, 192), 22), (CAMVID, "bicyclist", (0, 128, 192), 10)])
def test_owners_values(space, name, colour, stored):
    i = space.classes.index(name)
    assert (space.palette[i], space.stored_ids[i]) == (colour, stored)


def test_camvid32_has_the_owners_void():
    rgb = np.zeros((1, 1, 3), np.uint8)
    assert from_colour(rgb, CAMVID32)[0, 0] == encode(np.full((1, 1), 30, np.uint8), CAMVID32)[0, 0] == IGNORE


def test_licence_plates():
    "-1 is stored as 255 by Cityscapes and KITTI, as 34 by GTA5; each is an error in the other"
    for space, plate, stray in ((CITYSCAPES, 255, 34), (KITTI, 255, 34), (GTA5, 34, 255)):
        assert encode(np.full((1, 1), plate, np.uint8), space)[0, 0] == IGNORE
        refuses(lambda s=space, v=stray: encode(np.full((1, 1), v, np.uint8), s, "x.png"), "x.png", stray)


def test_a_stray_id_in_any_corner_is_found():
    for shape, at in product(((1, 1), (360, 480), (1024, 2048)), (0, -1)):
        stored = np.full(shape, 7, np.uint8); stored.flat[at] = 77
        refuses(lambda s=stored: encode(s, CITYSCAPES, "far.png"), "far.png", "[77]")


def test_background():
    assert VOC.background == MSRC.background == 0 and VOC.foreground == VOC.classes[1:] and len(MSRC.foreground) == 15
    assert CITYSCAPES.background is None and CITYSCAPES.foreground == CITYSCAPES.classes


def test_spaces_travel_to_other_processes():
    there = pickle.loads(pickle.dumps(VOC))
    assert there.classes == VOC.classes and (there.encode_lut == VOC.encode_lut).all()
    assert (map_lut(there, there)[:21] == range(21)).all()


# Colours

@pytest.mark.parametrize("space", [s for s in SPACES if s not in (CITYSCAPES20, CITYSCAPES34)], ids=lambda s: s.name)
def test_colours_there_and_back(space):
    ids = np.random.default_rng(0).choice(np.array([*range(len(space)), IGNORE], np.uint8), (37, 53))
    assert (from_colour(colourise(ids, space), space) == ids).all()
    assert (from_colour(np.asfortranarray(colourise(ids, space))[::-1], space) == ids[::-1]).all()


def test_shared_colours_give_the_first_class():
    assert from_colour(np.zeros((1, 1, 3), np.uint8), CITYSCAPES34)[0, 0] == 0
    assert from_colour(np.full((1, 1, 3), 153, np.uint8), CITYSCAPES34)[0, 0] == CITYSCAPES34.classes.index("pole")
    assert from_colour(np.zeros((1, 1, 3), np.uint8), CITYSCAPES20)[0, 0] == 19


def test_every_colour_outside_the_palette_is_refused():
    "Around each colour of VOC, a step in each channel"
    for colour, channel, step in product(VOC.palette, range(3), (-1, 1)):
        other = np.array(colour); other[channel] += step
        if 0 <= other[channel] <= 255:
            refuses(lambda c=other: from_colour(c.astype(np.uint8)[None, None], VOC, "c.png"), "c.png", other.tolist())


def test_many_classes():
    n = 253
    rgb = np.random.default_rng(0).permutation(256**3)[:n]
    palette = tuple((c >> 16, c >> 8 & 255, c & 255) for c in rgb.tolist())
    space = LabelSpace("many", tuple(map(str, range(n))), palette, tuple(range(n)), (255,), void_colour=(1, 2, 3))
    ids = np.array([[*range(n), IGNORE]], np.uint8)
    assert (from_colour(colourise(ids, space), space) == ids).all() and (encode(decode(ids, space), space) == ids).all()


# Maps

def test_tables_speak_of_real_classes():
    for (source, target), table in MAPS.items():
        owners = CITYSCAPES34 if table is CITYSCAPES_TO_CAMVID else LABEL_SPACES[source]
        assert set(table) <= set(owners.classes) and set(table.values()) <= set(LABEL_SPACES[target].classes)
        assert not set(table) & set(LABEL_SPACES[target].classes)
    assert {t for _, t in MAPS} == {"camvid"} and len(CAMVID32_TO_CAMVID) + 9 == len(CAMVID32)


@pytest.mark.parametrize("source, target", product(SPACES, SPACES), ids=lambda s: s.name)
def test_a_map_is_its_table(source, target):
    "By name first, by table else; void stays void; what is lost is said"
    try: to = counterparts(source, target)
    except HotsegError: return
    lut = map_lut(source, target)
    for i, name in enumerate(source.classes):
        if name in target.classes: assert to[name] == name
        assert lut[i] == (IGNORE if to[name] is None else target.classes.index(to[name]))
    assert (lut[len(source):] == IGNORE).all() and not lut.flags.writeable
    assert lost(source, target) == tuple(c for c, v in to.items() if v is None)
    ids = np.random.default_rng(1).integers(0, 256, (9, 11), np.uint8)
    assert (remap(ids, source, target) == lut[ids]).all() and (remap(ids.T, source, target) == lut[ids.T]).all()


FAMILY = [LABEL_SPACES[n] for n in ("cityscapes", "cityscapes_train", "gta5", "kitti", "acdc")]


@pytest.mark.parametrize("source, target", product(FAMILY, FAMILY), ids=lambda s: s.name)
def test_the_family_agrees(source, target): assert (map_lut(source, target)[:19] == range(19)).all()


def test_through_thirty_four():
    for space in FAMILY:
        both = map_lut(CITYSCAPES34, space)[map_lut(space, CITYSCAPES34)]
        assert (both[:19] == range(19)).all() and (both[19:] == IGNORE).all()
        assert len(lost(CITYSCAPES34, space)) == 15 and not lost(space, CITYSCAPES34)


def test_streets_to_camvid_keeps_every_class():
    assert set(map_lut(CITYSCAPES, CAMVID)[:19].tolist()) == set(range(11)) and not lost(CITYSCAPES, CAMVID)
    assert set(map_lut(CAMVID32, CAMVID)[:31].tolist()) == set(range(11)) and not lost(CAMVID32, CAMVID)
    assert lost(CITYSCAPES34, CAMVID) == ("unlabeled", "ego vehicle", "rectification border", "out of roi", "static",
                                          "dynamic", "ground", "rail track")


# One's own space

GOOD = 'name = "own"\nvoid = [9]\n[[class]]\nname = "a"\n[[class]]\nname = "b"\nid = 4\n'


@pytest.mark.parametrize("change, words", [
    (("id = 4", "id = 300"), "outside 0..255"), (("id = 4", "id = -1"), "outside 0..255"),
    (("id = 4", "id = 9"), "a stored id twice"), (("id = 4", "id = 0"), "a stored id twice"),
    (('"b"', '"a"'), "a class name twice"), (("id = 4", "colour = [1, 2]"), "not RGB"),
    (("id = 4", "colour = [1, 2, 300]"), "outside 0..255"), (("void = [9]", "void = [300]"), "outside -1..255"),
    (("void = [9]", "void = [-200]"), "outside -1..255"), (("id = 4", 'id = "x"'), "not understood"),
    (("id = 4", "color = [1, 2, 3]"), "color"), (("void = [9]", 'background = "c"'), "not understood"),
    (("void = [9]", "voids = [9]"), "voids"), (("void = [9]", "void = 9"), "not understood"),
    (("[[class]]", "[class"), "not readable"), ((GOOD, 'name = "own"'), "not understood"),
    ((GOOD, "class = 3"), "not understood"),
    ((GOOD, "class = []"), "1 to 253 classes"), (('name = "b"', ""), "not understood")])
def test_a_space_that_is_none(tmp_path, change, words):
    (tmp_path/"own.toml").write_text(GOOD.replace(*change))
    refuses(lambda: label_space(tmp_path/"own.toml"), "own.toml", words)


def test_one_s_own_space(tmp_path):
    (tmp_path/"own é.toml").write_text(GOOD + 'colour = [1, 2, 3]\n', encoding="utf8")
    space = label_space_from_toml(tmp_path/"own é.toml")
    assert (space.name, space.classes, space.stored_ids) == ("own", ("a", "b"), (0, 4))
    assert space.palette == ((0, 0, 0), (1, 2, 3))
    assert encode(np.array([[0, 4, 9]], np.uint8), space).tolist() == [[0, 1, IGNORE]]
    refuses(lambda: encode(np.array([[1]], np.uint8), space), "'own'")
    (tmp_path/"own é.toml").write_bytes(b"\xff\xfe")
    refuses(lambda: label_space(tmp_path/"own é.toml"), "not readable")
    refuses(lambda: label_space(tmp_path/"absent.toml"), "absent.toml")


def test_more_classes_than_bytes(tmp_path):
    (tmp_path/"big.toml").write_text("".join(f'[[class]]\nname = "{i}"\nid = {i % 256}\n' for i in range(300)))
    refuses(lambda: label_space(tmp_path/"big.toml"), "big.toml", "256")


# The true samples

def stored(path): return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@samples
def test_cityscapes_frames():
    "Ids agree with the instance files, whose thousands are the class"
    files = sorted((DATA/"samples"/"cityscapes").rglob("*_gtFine_labelIds.png"))
    assert len(files) == 6
    for file in files:
        ids, things = stored(file), stored(str(file).replace("labelIds", "instanceIds"))
        whole = np.where(things >= 1000, things // 1000, things)
        assert (whole == ids).all()
        full = encode(ids, CITYSCAPES34, file)
        assert (remap(full, CITYSCAPES34, CITYSCAPES) == encode(ids, CITYSCAPES, file)).all()


@samples
def test_kitti_frames():
    files = sorted((DATA/"samples"/"kitti"/"training"/"semantic").glob("*.png"))
    shares = [(encode(stored(f), KITTI, f) != IGNORE).mean() for f in files]
    assert len(files) == 5 and min(shares) > .9


@samples
def test_voc_colours():
    "Border (224, 224, 192) is void, black is background, the objects are the published colours"
    for file in sorted((DATA/"samples"/"voc-colour").glob("*_target.png")):
        ids = from_colour(np.array(Image.open(file).convert("RGB")), VOC, file)
        assert ids[0, 0] in (0, IGNORE) and len(np.unique(ids)) >= 2 and (ids == 0).any()
