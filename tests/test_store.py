"""The store and the packed copy: kills, strangers, names from outside, writers side by side."""
import json
import multiprocessing
import os
import pickle
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hotseg.core import HotsegError
from hotseg.data.augment import Scale, recipe
from hotseg.data.objects import ObjectScenes
from hotseg.data.packed import PackedItems, images_a_second, origin, pack
from hotseg.data.scenes import StreetScenes, content_hash
from hotseg.data.sets import MappedItems, Resized, SegItems, folder_items
from hotseg.data.store import Scores, Store, StoredItems, source_hash, space_from_json, space_to_json
from hotseg.data.loaders import tags_given
from hotseg.labels import CAMVID, CITYSCAPES, LabelSpace


class Named(StreetScenes):
    "Scenes under names of one's choice"
    def __init__(self, *names, **how):
        super().__init__(len(names), **(dict(height=24, width=48) | how))
        self.names = list(names)


def refuses(call, *words):
    "`call` must raise HotsegError whose text holds every word"
    with pytest.raises(HotsegError) as caught: call()
    for word in words: assert str(word) in str(caught.value), f"{word!r} is not in: {caught.value}"


def label(value=1): return np.full((24, 48), value, np.uint8)


def full(root, items, kind="labels", value=None, **how):
    "A finished store"
    store = Store.create(root, items, kind, "test", **how)
    for name in items.names: store.write(name, label() if value is None else value)
    return store.finish()


def test_names_may_be_any_but_stay_inside(tmp_path):
    items = Named("with space", "straße 雨", "folder/deeper/a.b", "manifest")
    store = full(tmp_path/"s", items)
    assert Store.open(tmp_path/"s").read("folder/deeper/a.b").sum() == 24 * 48 and store.complete
    for bad in ("../x", "/etc/passwd", "a/../../x"):
        refuses(lambda bad=bad: Store.create(tmp_path/"t", Named("ok", bad), "labels", "test"), "leaves its folder")
    assert not (tmp_path/"t").exists() and not (tmp_path/"x.png").exists()
    refuses(lambda: store.read("../plan"), "no such item")


def test_links_do_not_lead_out(tmp_path):
    items = Named("a", "b")
    (tmp_path/"outside").mkdir(); (tmp_path/"s").mkdir()
    store = Store.create(tmp_path/"s", items, "labels", "test")
    (tmp_path/"s"/"items").symlink_to(tmp_path/"outside")
    refuses(lambda: store.write("a", label()), "leaves its folder")
    assert not list((tmp_path/"outside").iterdir())
    (tmp_path/"s"/"items").unlink(); (tmp_path/"s"/"items").mkdir()
    (tmp_path/"s"/"items"/"a.png").symlink_to(tmp_path/"outside"/"a.png")
    refuses(lambda: store.write("a", label()), "leaves its folder")


@pytest.mark.parametrize("change, word", [
    (dict(parameters=dict(threshold=.5)), "parameters"), (dict(producer="other"), "producer"),
    (dict(kind="map"), "kind"), (dict(space=CAMVID), "space"), (dict(items=Named("a", "b", seed=1)), "source"),
    (dict(items=Named("a", "c")), "names")])
def test_a_folder_never_holds_two_makes(tmp_path, change, word):
    same = dict(items=Named("a", "b"), kind="labels", producer="test", parameters=dict(threshold=.9))
    store = Store.create(tmp_path/"s", **same)
    store.write("a", label())
    refuses(lambda: Store.create(tmp_path/"s", **(same | change)), "differs in", word)
    assert Store.create(tmp_path/"s", **same).missing() == ["b"]


def test_a_killed_writer_leaves_nothing_half(tmp_path, monkeypatch):
    store = Store.create(tmp_path/"s", Named("a", "b"), "labels", "test")
    store.write("a", label())
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): store.write("b", label())
    (tmp_path/"s"/"items"/".b.png.123.tmp").write_bytes(b"left by a kill")
    again = Store.create(tmp_path/"s", Named("a", "b"), "labels", "test")
    assert again.missing() == ["b"] and again.strays() == []
    again.write("b", label())
    assert again.finish().complete


class Flat:
    "Forty grey pictures"
    names, split, space = [str(i) for i in range(40)], "train", CITYSCAPES
    def __len__(self): return 40
    def read(self, i): return np.full((4, 6, 3), i, np.uint8), np.zeros((4, 6), np.uint8)


def _write(args):
    root, names = args
    store = Store.create(root, Flat(), "map", "test")
    for name in names: store.write(name, np.full((4, 6), float(name)))


def test_writers_side_by_side(tmp_path):
    for attempt in range(5):
        with multiprocessing.get_context("fork").Pool(4) as pool:
            pool.map(_write, [(tmp_path/f"s{attempt}", Flat.names[k::4]) for k in range(4)], chunksize=1)
        store = Store.create(tmp_path/f"s{attempt}", Flat(), "map", "test").finish()
        assert [store.read(n).mean() for n in store.names] == list(range(40))


def test_strangers_and_damage_are_found(tmp_path):
    items = Named("a", "b", "c", "d")
    store, other = full(tmp_path/"s", items), full(tmp_path/"o", items, parameters=dict(other=1))
    cv2.imwrite(str(store.path("a")), label())                      # a PNG that no store wrote
    store.path("b").write_bytes(other.path("b").read_bytes())       # of another store
    store.path("c").write_bytes(store.path("d").read_bytes())       # of another item
    store.path("d").write_bytes(store.path("d").read_bytes()[:60])  # cut short
    assert store.missing() == list("abcd") and not store.complete
    assert [store.state(n) for n in "bc"] == ["foreign", "foreign"]
    for name in "abcd": refuses(lambda name=name: store.read(name), store.path(name))
    for name in "abcd": store.write(name, label(2))
    (store.path("a").parent/"e.png").write_bytes(store.path("a").read_bytes())
    assert [p.name for p in store.strays()] == ["e.png"]
    refuses(store.finish, "1 foreign", "e.png")


def test_a_flipped_bit_in_the_middle_is_found_when_read(tmp_path):
    rng = np.random.default_rng(0)
    for kind, value in (("map", rng.random((24, 48))), ("labels", rng.integers(0, 19, (24, 48), dtype=np.uint8))):
        store = full(tmp_path/kind, Named("a"), kind, value)
        data = bytearray(store.path("a").read_bytes())
        data[len(data) // 2] ^= 255
        store.path("a").write_bytes(data)
        if kind == "map": refuses(lambda store=store: store.read("a"), "damaged", store.path("a"))
        else:
            try: wrong = not np.array_equal(store.read("a"), value)
            except HotsegError: wrong = False
            assert not wrong


def test_nothing_pickled_is_read(tmp_path):
    store = Store.create(tmp_path/"s", Named("a"), "map", "test")
    with zipfile.ZipFile(store.path("a").parent.mkdir() or store.path("a"), "w") as z:
        with z.open("map.npy", "w") as f: np.lib.format.write_array(f, np.array([{}]), allow_pickle=True)
        z.comment = store._stamp("a")
    refuses(lambda: store.read("a"), "damaged", "allow_pickle")


def test_manifests_are_checked(tmp_path):
    items = Named("a")
    store = Store.create(tmp_path/"s", items, "labels", "test")
    refuses(lambda: Store.open(tmp_path/"s"), "not finished")
    assert Store.open(tmp_path/"s", partial=True).names == ("a",)
    refuses(lambda: Store.open(tmp_path/"nowhere"), "not found")
    store.write("a", label())
    file = store.finish().root/"manifest.json"
    for text in ('{"kind": "labels"', "[]", json.dumps(json.loads(file.read_text()) | dict(parameters=dict(x=1)))):
        file.write_text(text)
        refuses(lambda: Store.open(tmp_path/"s"), file)


@pytest.mark.parametrize("kind, value, word", [
    ("labels", np.full((24, 48), 19, np.uint8), "[19]"), ("labels", np.zeros((24, 48), int), "uint8"),
    ("labels", np.zeros((24, 48, 1), np.uint8), "(24, 48, 1)"), ("map", np.full((24, 48), np.nan), "finite"),
    ("map", np.full((24, 48), 1e6), "finite"), ("map", np.zeros(5), "axes"),
    ("scores", Scores(np.array([1, 1]), np.zeros((2, 4, 4))), "ascend"),
    ("scores", Scores(np.array([1, 19]), np.zeros((2, 4, 4))), "inside"),
    ("scores", Scores(np.array([1]), np.zeros((2, 4, 4))), "ascend")])
def test_what_cannot_be_kept_is_refused(tmp_path, kind, value, word):
    store = Store.create(tmp_path/"s", Named("a"), kind, "test")
    refuses(lambda: store.write("a", value), word, store.path("a"))
    assert store.missing() == ["a"]


def test_maps_and_images_agree_in_size(tmp_path):
    store = Store.create(tmp_path/"s", Named("a"), "labels", "test")
    refuses(lambda: store.write("a", label(), size=(25, 48)), "image (25, 48), map (24, 48)")
    store.write("a", label()[:20])
    refuses(lambda: StoredItems(Named("a"), store.finish()).read(0), "image (24, 48), map (20, 48)", store.path("a"))


def test_scores_are_sparse_and_come_back(tmp_path):
    dense = np.zeros((19, 24, 48), np.float32)
    dense[3], dense[13] = .25, np.linspace(0, 1, 48)
    store = full(tmp_path/"s", Named("a"), "scores", Scores.sparse(dense))
    back = store.read("a")
    assert back.classes.tolist() == [3, 13] and np.abs(back.dense(19) - dense).max() < 3e-4
    assert StoredItems(Named("a"), scores=store).maps(0)["scores"].shape == (19, 24, 48)
    nothing = full(tmp_path/"n", Named("a"), "scores", Scores.sparse(dense * 0))
    assert nothing.read("a").dense(19).shape == (19, 24, 48) and not nothing.read("a").dense(19).any()


def test_stored_files_are_the_same_bytes_each_time(tmp_path):
    for kind, value in (("labels", label()), ("map", np.eye(24, 48))):
        one, two = (full(tmp_path/f"{kind}{k}", Named("a"), kind, value).path("a").read_bytes() for k in range(2))
        assert one == two


def test_subsets_and_own_spaces(tmp_path):
    mine = LabelSpace("mine", ("x", "y"), ((0, 0, 0), (9, 9, 9)), (0, 1), (255,), 0)
    assert space_to_json(space_from_json(space_to_json(mine))) == space_to_json(mine)
    assert space_from_json(space_to_json(CITYSCAPES)) is CITYSCAPES
    items = Named("a", "b", "c")
    store = full(tmp_path/"s", items, space=mine)
    part = StoredItems(Named("b"), Store.open(tmp_path/"s"))
    assert part.space.classes == ("x", "y") and part.read(0)[1].max() == 1
    refuses(lambda: StoredItems(Named("z"), store), "['z']")
    refuses(lambda: StoredItems(Named("a", "b", "c", look="dusk"), store), "other pictures")
    refuses(lambda: StoredItems(items, full(tmp_path/"m", items, "map", np.zeros((24, 48)))), "not a store of labels")


def test_tags_follow_labels_of_another_space(tmp_path):
    masks = LabelSpace("masks", ("ground", "thing"), ((0, 0, 0), (9, 9, 9)), (0, 1), (255,), 0)
    items = ObjectScenes(2, height=32, width=32)
    items.known_tags = (items.tags(0), items.tags(1))
    own, other = (Store.create(tmp_path/str(k), items, "labels", "test", space=s) for k, s in enumerate((None, masks)))
    for i, name in enumerate(items.names):
        own.write(name, items.read(i)[1] * 0)
        other.write(name, np.full((32, 32), i, np.uint8))
    same, mapped = StoredItems(items, own), pickle.loads(pickle.dumps(StoredItems(items, other)))
    assert np.array_equal(same.tags(0), items.tags(0)) and tags_given(same)
    assert [mapped.tags(i).tolist() for i in range(2)] == [[0], [1]] and not tags_given(mapped)


def test_a_maps_name_is_a_kind_or_the_error_says_which(tmp_path):
    items = Named("a")
    store = full(tmp_path/"m", items, "map", np.ones((24, 48)))
    for name in ("confidence", "image", "label"):
        refuses(lambda name=name: StoredItems(items, **{name: store}), name, "hardness= for a weight or confidence")
    maps = StoredItems(items, hardness=store, depth=store).maps(0)
    moved = recipe("none", scale=Scale(2, 2))(*items.read(0), "key", **maps)
    assert (moved.maps["hardness"] == 1).all() and moved.maps["depth"].shape == (48, 96)


@pytest.fixture
def files(tmp_path):
    "Three PNG pairs of unequal sizes, with names that need care"
    for kind in ("image", "label"): (tmp_path/"set"/kind).mkdir(parents=True)
    for k, name in enumerate(("a b", "ü", "c")):
        rng = np.random.default_rng(k)
        shape = (16 + k, 24)
        (tmp_path/"set"/"image"/f"{name}.png").write_bytes(
            cv2.imencode(".png", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))[1].tobytes())
        (tmp_path/"set"/"label"/f"{name}.png").write_bytes(
            cv2.imencode(".png", rng.integers(0, 11, shape, dtype=np.uint8))[1].tobytes())
    return folder_items(tmp_path/"set"/"image", tmp_path/"set"/"label", CAMVID, "train")


def test_raw_packs_are_the_same_bits_at_any_size(files, tmp_path):
    packed = pack(files, tmp_path/"p")
    assert content_hash(packed) == content_hash(files) == packed.manifest["hash"]
    assert packed.space is CAMVID and packed.names == files.names and packed.split == "train"
    assert all(np.array_equal(packed.tags(i), files.tags(i)) for i in range(3)) and packed.known_tags is None
    image, _ = packed.read(0)
    image[:] = 0
    assert packed.read(0)[0].any()
    copy = pickle.loads(pickle.dumps(packed))
    assert copy.maps_of == {} and content_hash(copy) == packed.manifest["hash"]
    assert packed.subset(["c"], "some").read(0)[1].shape == files.read(files.names.index("c"))[1].shape
    refuses(lambda: packed.subset(["z"]), "['z']")


def test_jpeg_packs_keep_labels_exact(files, tmp_path):
    packed = pack(files, tmp_path/"p", 32, 32, format="jpeg")
    small = Resized(files, 32, 32)
    for i in range(3):
        assert np.array_equal(packed.read(i)[1], small.read(i)[1])
        assert packed.read(i)[0].shape == (32, 32, 3)
    packed.verify()


@pytest.mark.parametrize("what", ["image", "label"])
def test_a_changed_source_makes_a_pack_stale(files, tmp_path, what):
    pack(files, tmp_path/"p")
    file = (files.images if what == "image" else files.labels)[1]
    data = file.read_bytes()
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))
    refuses(lambda: pack(files, tmp_path/"p"), "stale", "origin", tmp_path/"p")
    refuses(lambda: PackedItems(tmp_path/"p", source=files), "stale")
    assert PackedItems(tmp_path/"p").names == files.names
    assert pack(files, tmp_path/"p", replace=True).manifest["origin"] == origin(files)


def test_another_request_is_not_the_pack_that_is_there(files, tmp_path):
    pack(files, tmp_path/"p")
    refuses(lambda: pack(files, tmp_path/"p", format="jpeg"), "differs in: ['how']")
    refuses(lambda: pack(files, tmp_path/"p", 8, 8), "how")
    refuses(lambda: pack(files.subset(["c"]), tmp_path/"p"), "names")
    refuses(lambda: pack(files, tmp_path/"q", height=8), "both sides")
    refuses(lambda: pack(files, tmp_path/"q", format="zip"), "raw")


@pytest.mark.parametrize("sides", [(-5, 7), (7, -5), (0, 0), (0, 7), (7, 0)])
def test_a_pack_of_no_pixels_is_refused(files, tmp_path, sides):
    refuses(lambda: pack(files, tmp_path/"q", *sides), "at least one pixel", sides)
    assert not (tmp_path/"q").exists() and not list(tmp_path.glob(".*"))


def test_extras_that_are_not_there_are_not_packed(tmp_path):
    class Bare(Named):
        def tags(self, i): return self.items.tags(i)  # AttributeError: there are no inner items
    packed = pack(Bare("a"), tmp_path/"p")
    assert not hasattr(packed, "tags") and packed.depth(0).shape == (24, 48)


class Deadly(Named):
    "Scenes whose reader is killed"
    def read(self, i):
        if i == 1: os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i)


def _pack_deadly(dst): pack(Deadly(*"abcd", look="dusk"), dst, replace=True)


def _pack_dead_between_renames(dst):
    rename = Path.rename
    Path.rename = lambda self, to: os.kill(os.getpid(), signal.SIGKILL) if self.suffix == ".tmp" else rename(self, to)
    pack(Named("a", "b", look="dusk"), dst, replace=True)


def killed(call, *args):
    "Run in a process of its own, which must die of a kill"
    child = multiprocessing.get_context("fork").Process(target=call, args=args)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def hidden(folder): return sorted(p.suffix for p in folder.iterdir() if p.name.startswith("."))


def test_what_a_killed_packing_left_is_removed(tmp_path):
    killed(_pack_deadly, tmp_path/"p")
    assert hidden(tmp_path) == [".tmp"]
    (tmp_path/".p.txt.tmp").touch()
    pack(Named("a"), tmp_path/"p")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".p.txt.tmp", "p"]


def test_an_old_pack_survives_a_kill_between_the_renames(tmp_path):
    before = pack(Named("a", "b"), tmp_path/"p").manifest
    killed(_pack_dead_between_renames, tmp_path/"p")
    assert hidden(tmp_path) == [".old", ".tmp"] and not (tmp_path/"p").exists()
    assert pack(Named("a", "b"), tmp_path/"p").manifest == before and hidden(tmp_path) == []
    killed(_pack_dead_between_renames, tmp_path/"p")
    refuses(lambda: pack(Named("a", "b", look="dusk"), tmp_path/"p"), "stale")
    assert PackedItems(tmp_path/"p").manifest == before


def test_folders_of_the_living_and_of_other_packs_are_left_alone(tmp_path):
    killed(_pack_deadly, tmp_path/"p")
    dead, = tmp_path.glob(".p.*.tmp")
    living = dead.with_name(dead.name.replace(dead.name.split(".")[-2], str(os.getppid())))
    other = dead.with_name(dead.name.replace(".p.", ".p.q."))
    for folder in (living, other): folder.mkdir()
    pack(Named("a"), tmp_path/"p")
    assert living.exists() and other.exists() and not dead.exists()


def test_an_old_pack_survives_a_rename_that_fails(tmp_path, monkeypatch):
    before, rename = pack(Named("a"), tmp_path/"p").manifest, Path.rename
    def fails(self, to):
        if self.suffix == ".tmp": raise OSError("no")
        return rename(self, to)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no"): pack(Named("a", look="dusk"), tmp_path/"p", replace=True)
    assert PackedItems(tmp_path/"p").manifest == before and hidden(tmp_path) == []


def test_a_failed_packing_leaves_the_old_pack_or_nothing(files, tmp_path):
    pack(files, tmp_path/"p")
    files.images[1].write_bytes(files.images[1].read_bytes()[:50])
    refuses(lambda: pack(files, tmp_path/"p", replace=True), files.images[1])
    refuses(lambda: pack(files, tmp_path/"q"), files.images[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p", "set"]
    assert len(PackedItems(tmp_path/"p")) == 3
    refuses(lambda: pack(files, tmp_path/"set", replace=True), "manifest.json")


def test_a_failure_half_way_leaves_no_trace(tmp_path):
    class Torn(Named):
        def read(self, i):
            if i == 1: raise HotsegError("read error", path=self.names[i])
            return super().read(i)
    pack(Named("a", "b", "c", "d"), tmp_path/"p")
    before = content_hash(PackedItems(tmp_path/"p"))
    refuses(lambda: pack(Torn("a", "b", "c", "d"), tmp_path/"q"), "read error")
    refuses(lambda: pack(Torn("a", "b", "c", "d", look="dusk"), tmp_path/"p", replace=True), "read error")
    assert [p.name for p in tmp_path.iterdir()] == ["p"] and content_hash(PackedItems(tmp_path/"p")) == before


def test_pictures_without_labels_can_be_packed(files, tmp_path):
    bare = replace(files, labels=(None,) * 3)
    packed = pack(bare, tmp_path/"p")
    assert (packed.read(1)[1] == 255).all() and not hasattr(packed, "tags")
    listed = pack(replace(files, known_tags=((1,) * 11,) * 3), tmp_path/"t")
    assert listed.known_tags and listed.tags(2).tolist() == [1] * 11


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_pack_that_is_not_whole_is_refused(files, tmp_path, name):
    pack(files, tmp_path/"p")
    file = tmp_path/"p"/f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-1])
    refuses(lambda: PackedItems(tmp_path/"p"), file, "not whole")
    file.unlink()
    refuses(lambda: PackedItems(tmp_path/"p"), file)


def test_generated_items_of_another_seed_are_others_even_if_samples_agree():
    class Alike(Named):
        def read(self, i): return np.zeros((24, 48, 3), np.uint8), np.zeros((24, 48), np.uint8)
    hashes = {source_hash(Alike(*"abcde", **how)) for how in ({}, dict(seed=1), dict(look="dusk"), dict(height=48))}
    items = Alike(*"abcde")
    assert len(hashes) == 4 and source_hash(MappedItems(items, items.space)) == source_hash(items) in hashes


def test_source_hash_tells_pictures_apart(files):
    assert source_hash(files) == source_hash(replace(files, labels=(None,) * 3)) != source_hash(Resized(files, 8, 8))


def test_speed_is_counted_for_every_set(files, tmp_path):
    speed = images_a_second(dict(png=files, raw=pack(files, tmp_path/"p")), rounds=1)
    assert set(speed) == {"png", "raw"} and min(speed.values()) > 0
    assert isinstance(files, SegItems)
