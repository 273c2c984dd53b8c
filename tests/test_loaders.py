"""Loaders: pinned numbers, the same bits from any workers and any way of starting them, faults that name their file."""
import hashlib
import pickle
import warnings

import cv2
import numpy as np
import pytest
import torch

from hotseg.core import HotsegError, numpy_rng
from hotseg.data.augment import Scale, recipe
from hotseg.data.batches import Turn, finish, same_size
from hotseg.data.loaders import DistortedPairs, pair_loaders
from hotseg.data.packed import pack
from hotseg.data.scenes import StreetScenes
from hotseg.data.sets import Resized, folder_items
from hotseg.data.store import Store, StoredItems
from hotseg.data.streams import (TwoStreams, bring_back, merge_views, scaled_views, stream, tag_loaders,
                                 two_stream_loaders, view_loaders)
from hotseg.distort.turbulence import Turbulence
from hotseg.labels import CITYSCAPES, LabelSpace
from hotseg.train.learner import seg_learner

COLOURS = (0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)
TINY = LabelSpace("tiny", ("ground", "a", "b", "c"), COLOURS, (0, 1, 2, 3), (255,), 0)


class Noise:
    "Items of noise, a function of their names; in a module, so that spawned workers find the class"
    split = "noise"

    def __init__(self, n, height=32, width=48, space=CITYSCAPES, word="noise"):
        self.names, self.height, self.width, self.space = [f"{word}_{i}" for i in range(n)], height, width, space

    def __len__(self): return len(self.names)

    def read(self, i):
        rng = numpy_rng("noise", self.names[i])
        return (rng.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8),
                rng.integers(0, len(self.space), (self.height, self.width), dtype=np.uint8))


class Blind(Noise):
    "Noise whose label is void everywhere"
    def read(self, i): return super().read(i)[0], np.full((self.height, self.width), 255, np.uint8)


class Halved(Noise):
    "Noise with a label of two halves: crops near an edge are of one class"
    def read(self, i): return super().read(i)[0], np.repeat([[0, 1]], [24, 24], 1).repeat(32, 0).astype(np.uint8)


class Marked(Noise):
    "Noise whose label is 77 everywhere"
    def read(self, i): return super().read(i)[0], np.full((self.height, self.width), 77, np.uint8)


def fingerprint(batches):
    digest = hashlib.sha256()
    for part in (part for batch in batches for part in batch):
        digest.update(str((tuple(part.shape), part.dtype)).encode() + part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def epoch_of(loaders, epoch):
    "Training batches of an epoch"
    loaders.train.set_epoch(epoch)
    return list(loaders.train)


def test_pair_batches_are_what_they_always_were():
    loaders = pair_loaders(Noise(7), Noise(3), batch=2, seed=3, device="cpu")
    assert [fingerprint(epoch_of(loaders, e)) for e in (0, 1)] == ["ca806291f810e829", "afab2ec1a91d208b"]
    assert fingerprint(loaders.valid) == "8a4edb88c4c8feab"


def test_distorted_pairs_are_the_distortion_of_the_clean_image():
    turbulence, items = Turbulence(1.5, 4.), Noise(4)
    pairs = DistortedPairs(items, turbulence, seed=3, fresh=True)
    distorted, clean, label = pairs[Turn(2, 1)]
    same = torch.from_numpy(items.read(1)[0]).permute(2, 0, 1).float().div_(255)
    assert torch.equal(clean, same) or torch.equal(clean, same.flip(-1))
    assert torch.equal(distorted, turbulence.apply(clean[None], pairs.sample(clean.shape[-2:], 1, 2))[0])
    assert label.dtype == torch.int64 and clean.dtype == torch.float32


MAKERS = dict(
    pairs=lambda **how: pair_loaders(Noise(6), Noise(2), Turbulence(1., 4.), 2, seed=1, device="cpu", **how),
    recipe=lambda **how: pair_loaders(Noise(6), Noise(2), None, 2, device="cpu", **how, augment=recipe(
        "hardness", crop=(24, 24), scale=Scale(.5, 2.))),
    streams=lambda **how: two_stream_loaders(Noise(5), Noise(3, word="target"), Noise(2), 2, device="cpu", **how),
    tags=lambda **how: tag_loaders(Noise(6, space=TINY), Noise(2, space=TINY), 2, device="cpu", **how),
    views=lambda **how: view_loaders(Noise(4), Noise(2), recipe("erfnet", crop=(16, 16)), 2, 2, device="cpu", **how))


def check_same(kind, **how):
    "Epochs 0 and 1 and validation are those of this process alone"
    alone, helped = MAKERS[kind](), MAKERS[kind](**how)
    for epoch in range(2): assert fingerprint(epoch_of(helped, epoch)) == fingerprint(epoch_of(alone, epoch))
    assert fingerprint(helped.valid) == fingerprint(alone.valid)
    assert fingerprint(epoch_of(alone, 0)) != fingerprint(epoch_of(alone, 1))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", MAKERS)
def test_any_number_of_workers_gives_the_same_bits(kind, workers): check_same(kind, workers=workers)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_goes_to_a_worker_survives_the_journey(kind):
    here = MAKERS[kind]().train.dataset
    there = pickle.loads(pickle.dumps(here))
    for a, b in zip(here[Turn(1, 1)], there[Turn(1, 1)], strict=True): assert torch.equal(a, b)


def test_spawned_workers_give_the_same_bits(tmp_path):
    "Distortion, a hardness map out of a store and a packed copy, in two epochs of the same spawned workers"
    packed = pack(Noise(4), tmp_path/"packed")
    store = Store.create(tmp_path/"hardness", packed, "map", "test")
    for name in packed.names: store.write(name, np.full((32, 48), .5))
    items = StoredItems(packed, hardness=store.finish())
    alone, helped = (pair_loaders(items, items, Turbulence(1., 4.), 2, device="cpu", **how)
                     for how in ({}, dict(workers=2, start="spawn")))
    epochs = [epoch_of(helped, e) for e in range(2)]
    assert [fingerprint(e) for e in epochs] == [fingerprint(epoch_of(alone, e)) for e in range(2)]
    assert fingerprint(epochs[0]) != fingerprint(epochs[1]) and len(epochs[0][0]) == 4


def test_showing_a_batch_leaves_the_workers_epoch_alone():
    loaders = MAKERS["pairs"](workers=2)
    plain, shown = epoch_of(loaders, 1), []
    for batch in loaders.train:
        shown.append(batch)
        loaders.show_batch(1)
    assert fingerprint(shown) == fingerprint(plain) and len(shown) == 3


def test_an_epoch_left_early_does_not_spill_into_the_next():
    loaders = MAKERS["pairs"](workers=2)
    loaders.train.set_epoch(0)
    next(iter(loaders.train))
    assert fingerprint(epoch_of(loaders, 1)) == fingerprint(epoch_of(MAKERS["pairs"](), 1))


@pytest.mark.parametrize("how", [{}, dict(workers=1)])
def test_a_broken_file_is_named(tmp_path, how):
    for kind in ("image", "label"): (tmp_path/kind).mkdir()
    for name in "abcd":
        cv2.imwrite(str(tmp_path/"image"/f"{name}.png"), np.zeros((8, 12, 3), np.uint8))
        cv2.imwrite(str(tmp_path/"label"/f"{name}.png"), np.full((8, 12), 7, np.uint8))
    (tmp_path/"image"/"c.png").write_bytes((tmp_path/"image"/"c.png").read_bytes()[:40])
    items = folder_items(tmp_path/"image", tmp_path/"label", CITYSCAPES, "demo")
    with pytest.raises(HotsegError, match="c.png"): list(pair_loaders(items, items, batch=2, device="cpu", **how).valid)


def test_a_fault_of_the_augmentation_names_the_item():
    def bad(image, label, *keys, **maps): raise ZeroDivisionError("oops")
    with pytest.raises(HotsegError, match=r"(?s)noise_\d.*oops"):
        pair_loaders(Noise(2), Noise(2), batch=2, augment=bad).train.first(1)
    with pytest.raises(HotsegError, match=r"(?s)noise_\d and target_\d"):
        two_stream_loaders(Noise(2), Noise(2, word="target"), Noise(2), 2, augment=bad).train.first(1)


def test_images_of_different_sizes_do_not_share_a_batch():
    class Odd(Noise):
        def read(self, i): return tuple(a[:32 - i] for a in super().read(i))
    with pytest.raises(HotsegError, match="different sizes"): list(pair_loaders(Odd(4), Odd(4), batch=2).valid)
    assert len(next(iter(pair_loaders(Odd(4), Odd(4), batch=1).valid))) == 3


def test_finish_is_a_division_by_255():
    image, label, other = finish((torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16),
                                  torch.full((1, 4, 4), 255, dtype=torch.uint8), torch.ones(1, 3)))
    assert torch.equal(image.flatten(), torch.arange(256).float() / 255) and image.is_contiguous()
    assert label.dtype == torch.int64 and (label == 255).all() and other.dtype == torch.float32
    assert same_size([(image[0],)] * 3)[0].shape == (3, 1, 16, 16)


def test_stored_maps_go_through_the_augmentation_with_the_label(tmp_path):
    items = Noise(4)
    store = Store.create(tmp_path/"map", items, "map", "test")
    for i, name in enumerate(items.names): store.write(name, items.read(i)[1].astype(float))
    stored = StoredItems(items, depth=store.finish())  # moved as depth is: nearest pixel
    for augment in (None, recipe("erfnet"), recipe("none", scale=Scale(.7, 1.4), crop=(20, 28), flip=.5)):
        loaders = pair_loaders(stored, stored, batch=4, augment=augment, device="cpu")
        for distorted, clean, depth, label in (next(iter(loaders.train)), loaders.train.first(2)):
            assert torch.equal(distorted, clean) and depth.dtype == torch.float32
            assert torch.equal(depth[label != 255].long(), label[label != 255]) and (label != 255).float().mean() > .4
    assert not torch.equal(clean, finish((torch.from_numpy(items.read(0)[0])[None].permute(0, 3, 1, 2),))[0])


def test_validation_is_normalised_like_training_and_never_distorted_then():
    seam = recipe("seam", scale=Scale(), crop=(32, 48))
    loaders = pair_loaders(Noise(2), Noise(2), batch=2, augment=seam, device="cpu")
    for part in (loaders.train, loaders.valid): assert next(iter(part))[0].min() < -1
    with pytest.raises(HotsegError, match="normalised"):
        pair_loaders(Noise(2), Noise(2), Turbulence(1., 4.), 2, augment=seam)


def test_every_item_of_a_stream_is_used_equally_often():
    seen = np.zeros((2, 7), int)
    for position in range(70):
        for row, name in enumerate(("source", "target")): seen[row, stream(7, position, 5, name)[1]] += 1
    assert (seen == 10).all()


def test_no_target_label_reaches_a_batch():
    loaders = two_stream_loaders(Noise(4), Marked(3, word="target"), Noise(2), 2, steps=6, device="cpu")
    assert len(list(loaders.train)) == 6
    assert not any((part == 77).any() for batch in loaders.train for part in batch)
    assert all((part != 77).all() for part in TwoStreams(Noise(4), Marked(3))[0])


@pytest.mark.parametrize("strange", [None, recipe("none", crop=(12, 20), flip=.5, limit=.8)])
def test_target_labels_do_not_steer_the_targets_crops(strange):
    choosy = recipe("none", crop=(12, 24), flip=.5, limit=.9)
    seeing, blind = (two_stream_loaders(Noise(4), kind(5, word="target"), Noise(2), 2, steps=6, device="cpu",
                                        augment=choosy, strange=strange) for kind in (Halved, Blind))
    for epoch in range(2): assert fingerprint(epoch_of(seeing, epoch)) == fingerprint(epoch_of(blind, epoch))
    labels = [choosy(*Halved(5).read(0), k).label for k in range(20)]
    assert all(len(label.unique()) == 2 for label in labels)  # those of the source still do


@pytest.mark.parametrize("look, how, twins", [("dusk", {}, True), ("dusk", dict(seed=1), False),
                                              ("game", dict(split="other"), False), ("camera", {}, True)])
def test_twins_in_source_and_target_are_warned_of(look, how, twins):
    street, valid = (StreetScenes(2, height=24, width=48, seed=seed) for seed in (0, 9))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        two_stream_loaders(street, StreetScenes(2, height=24, width=48, look=look, **how), valid, 2, device="cpu")
    assert [w.category for w in heard] == [UserWarning] * twins
    assert not twins or "different seeds" in str(heard[0].message) and heard[0].filename == __file__


def test_targets_without_labels_are_no_twins():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_stream_loaders(Noise(4), Blind(4), Noise(2), 2, device="cpu")


def test_every_kind_of_loaders_shows_training_and_validation():
    for make in MAKERS.values():
        for index in (0, 1): assert make().show_batch(2, index) is not None


def test_two_streams_train_the_plain_baseline():
    loaders = two_stream_loaders(Noise(4), Noise(2, word="target"), Noise(2), 2, device="cpu")
    learner = seg_learner(loaders, torch.nn.Conv2d(3, 19, 1), space=CITYSCAPES)
    with learner.no_bar(), learner.no_logging(): learner.fit(2)
    assert len(learner.recorder.values) == 2 and np.isfinite(learner.recorder.values[-1]).all()


def test_tags_are_of_the_foreground_and_of_the_whole_image():
    items, small = (Noise(n, space=TINY) for n in (4, 2)), recipe("erfnet", crop=(4, 4))
    loaders = tag_loaders(*items, 2, augment=small, device="cpu")
    image, tags = next(iter(loaders.train))
    assert image.shape == (2, 3, 4, 4) and tags.tolist() == [[1, 1, 1]] * 2
    assert len(next(iter(loaders.valid))) == 3


def test_views_come_home_where_they_looked():
    loaders = view_loaders(Noise(2), Noise(2), recipe("none", crop=(16, 24), flip=.5), 3, 2, device="cpu")
    views, numbers, image, _ = next(iter(loaders.train))
    home, seen = bring_back(views, numbers, 32, 48)
    assert seen.float().mean() == 16 * 24 / (32 * 48)
    where = seen[:, :, None].expand_as(home)
    assert torch.allclose(home[where], image[:, None].expand_as(home)[where], atol=1e-6)


def test_the_mean_of_one_unscaled_view_and_its_mirror_is_the_image():
    image = torch.rand(2, 3, 9, 13)
    assert torch.equal(merge_views(scaled_views(image, (1.,)), 9, 13), image)
    assert [v.shape[-1] for v in scaled_views(image, (.5, 2.), mirror=False)] == [6, 26]


def test_resized_items_keep_their_cache_in_lasting_workers():
    items = Resized(Noise(4), 16, 24)
    loaders = pair_loaders(items, items, batch=2, workers=1, device="cpu")
    assert loaders.train.persistent_workers and fingerprint(epoch_of(loaders, 0)) != fingerprint(epoch_of(loaders, 1))
