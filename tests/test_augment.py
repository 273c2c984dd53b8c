"Augmentation and mixing against independent definitions: geometry, colour, recipes, ClassMix, CutMix, FDA, Lab"
import colorsys
import math
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
import torch

from hotseg.core import HotsegError, numpy_rng
from hotseg.data.augment import RECIPES, Augment, RareClasses, Scale, rare_class_probabilities, recipe
from hotseg.data.colour import CAFFE, IMAGENET, NEUTRAL, Blur, Jitter, Photometric, recolour
from hotseg.data.geometry import Geometry, carry, move, undo
from hotseg.data.mix import (box_mask, class_mask, class_mix, cut_mix, fda, half_window, lab_style, lab_to_rgb, paste,
                             patch_mask, rgb_to_lab)

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def picture(key, height=45, width=70, classes=6, void=.1):
    "A blocky random picture with its label, as bytes"
    rng = numpy_rng("test picture", key)
    blocks = rng.integers(0, classes, (-(-height // 7), -(-width // 7)))
    label = np.kron(blocks, np.ones((7, 7), int))[:height, :width].astype(np.uint8)
    image = (label[..., None] * 35 + rng.integers(0, 60, (height, width, 3))).astype(np.uint8)
    label[rng.random(label.shape) < void] = 255
    return image, label


def planes(image): return torch.from_numpy(image.copy()).permute(2, 0, 1) / 255


def some_geometry(i, height=45, width=70):
    rng = numpy_rng("test geometry", i)
    scaled = tuple(int(n * rng.uniform(.55, 2)) for n in (height, width))
    corner = tuple(int(rng.integers(-15, max(n - 10, 1))) for n in scaled)
    return Geometry(scaled, corner, tuple(rng.integers(20, 60, 2).tolist()), bool(rng.integers(2)))


def by_definition(label, g, fill=255):
    "The window, pixel by pixel, from the definition in words, with exact fractions"
    out = np.full(g.size, fill, label.dtype)
    for i in range(g.size[0]):
        for j in range(g.size[1]):
            column = g.size[1] - 1 - j if g.flip else j
            y, x = (2 * (i + g.corner[0]) + 1) * label.shape[0], (2 * (column + g.corner[1]) + 1) * label.shape[1]
            y, x = y // (2 * g.scaled[0]), x // (2 * g.scaled[1])
            if 0 <= y < label.shape[0] and 0 <= x < label.shape[1]: out[i, j] = label[y, x]
    return out


# -- geometry

@pytest.mark.parametrize("i", range(25))
def test_labels_follow_the_definition(i):
    _, label = picture(i)
    g = some_geometry(i)
    true = by_definition(label, g)
    np.testing.assert_array_equal(g(label, "label"), true)
    np.testing.assert_array_equal(g(torch.from_numpy(label).long(), "label"), true)


@pytest.mark.parametrize("i", range(25))
def test_bytes_and_tensors_see_the_same_picture(i):
    image, _ = picture(i)
    g = some_geometry(i)
    tensor = (g(planes(image)) * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(g(image).astype(float), tensor, atol=6 if int(cv2.__version__[0]) < 5 else 1.01)
    outside = g.outside()
    assert outside.any() == g.pads and (g(image)[outside] == 0).all()


def test_resize_and_crop_is_the_same_as_the_window():
    image, label = picture("peer", 60, 90)
    for scaled in ((60, 90), (90, 135), (47, 71), (120, 180)):
        g = Geometry(scaled, (8, 5), (30, 40))
        peer = cv2.resize(image, scaled[::-1])[8:38, 5:45]
        assert np.abs(peer.astype(int) - g(image)).max() <= (1 if int(cv2.__version__[0]) >= 5 else 6)


def test_whole_pixel_moves_are_copies():
    image, label = picture("exact")
    x = planes(image)
    for flip in (False, True):
        g = Geometry((45, 70), (-2, 1), (45, 70), flip)
        true = np.zeros_like(image)
        true[2:, :-1] = image[:-2, 1:]
        true = true[:, ::-1] if flip else true
        np.testing.assert_array_equal(g(image), true)
        assert torch.equal(g(x), planes(true))
    same = Geometry.whole(45, 70)(image)
    same[:] = 0
    assert image.any(), "the result must not share memory with the input"
    assert torch.equal(Geometry.whole(45, 70)(x), x)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64, bool])
def test_any_type_of_map_can_move(dtype):
    ids = numpy_rng("types").integers(0, 2, (20, 30)).astype(dtype)
    for flip in (False, True):
        out = Geometry((20, 30), (3, 4), (10, 20), flip)(ids, "instances")
        true = ids[3:13, 4:24]
        np.testing.assert_array_equal(out, true[:, ::-1] if flip else true)
        assert out.dtype == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, np.int64])
def test_smooth_maps_of_any_type(dtype):
    x = numpy_rng("smooth").integers(0, 200, (20, 30)).astype(dtype)
    for g in (Geometry((20, 30), (3, 4), (10, 20)), Geometry((31, 47), (-3, 4), (40, 20), True)):
        ours, tensor = g(x, "hardness"), g(torch.from_numpy(x), "hardness").numpy()
        np.testing.assert_allclose(ours.astype(float), tensor, atol=1.01 if dtype == np.uint8 else .02)


def test_there_and_back():
    _, label = picture("back", void=0)
    for i in range(20):
        g = some_geometry(i)
        g = Geometry(tuple(max(s, n) for s, n in zip(g.scaled, label.shape)), g.corner, g.size, g.flip)
        back = undo(g(label, "label"), g, *label.shape)
        assert (back == label)[back != 255].all()


def test_two_views_agree_where_both_look():
    image, _ = picture("views", 64, 96)
    smooth = torch.from_numpy(cv2.GaussianBlur(image, (0, 0), 4)).permute(2, 0, 1) / 255
    a, b = Geometry((96, 144), (10, 20), (60, 80), True), Geometry((80, 120), (5, 10), (60, 80))
    told, true = carry(a(smooth), a, b, fill=-1), b(smooth)
    seen = told[0] >= 0
    assert .3 < seen.float().mean() < 1
    assert (told - true).abs()[:, seen].max() < .02


def test_prediction_at_a_lower_resolution_fills_its_window():
    ramp = torch.linspace(0, 1, 96).expand(1, 64, 96)
    g = Geometry((64, 96), (8, 16), (48, 64), True)
    logits = torch.nn.functional.avg_pool2d(g(ramp), 8)
    back = undo(logits, g, 64, 96, "scores", fill=-1)[0]
    assert ((back - ramp[0]).abs()[back >= 0]).max() < 8 / 96
    assert ((back - ramp[0]).abs()[10:54, 22:74]).max() < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_its_singles(device):
    pairs = [picture(i) for i in range(4)]
    windows = [Geometry((60 + 5 * i, 90 + 3 * i), (4 * i - 6, 7 * i), (40, 50), bool(i % 2)) for i in range(4)]
    x, y = torch.stack([planes(a) for a, _ in pairs]), torch.from_numpy(np.stack([b for _, b in pairs])).long()
    moved, labels = move(x.to(device), windows).cpu(), move(y.to(device), windows, "label").cpu()
    for i, g in enumerate(windows):
        assert torch.allclose(moved[i], g(x[i]), atol=1e-4)
        assert torch.equal(labels[i], g(y[i], "label"))


def test_windows_past_the_picture_are_all_padding():
    image, label = picture("far")
    g = Geometry((45, 70), (100, 0), (10, 12))
    assert (g(label, "label") == 255).all() and (g(image) == 0).all()
    assert (g(torch.ones(1, 45, 70)) == 0).all()


def test_unknown_kind():
    with pytest.raises(HotsegError, match="unknown kind"): move(np.zeros((4, 4)), Geometry.whole(4, 4), "flow")


# -- colour

def test_hue_and_saturation_against_the_standard_library():
    rng = numpy_rng("hsv")
    pixels = np.concatenate([rng.random((200, 3)), np.eye(3), np.zeros((1, 3)), np.ones((1, 3))])
    for gain, turn in ((1., .3), (1.7, 0.), (.4, -.45), (1.2, .9)):
        def change(p):
            h, s, v = colorsys.rgb_to_hsv(*p)
            return colorsys.hsv_to_rgb((h + turn) % 1, min(s * gain, 1), v)
        true = np.array([change(p) for p in pixels])
        ours = recolour(torch.from_numpy(pixels.T[:, None]).float(), [("hsv", (gain, turn))])
        np.testing.assert_allclose(ours[:, 0].T.numpy(), true, atol=1e-5)


def test_the_other_steps_by_definition():
    x = planes(picture("steps")[0])
    grey = .299 * x[0] + .587 * x[1] + .114 * x[2]
    true = {("add", .1): x + .1, ("gain", 1.3): x * 1.3, ("contrast", .6): .6 * x + .4 * grey.mean(),
            ("grey", 1.4): 1.4 * x - .4 * grey}
    for step, expected in true.items():
        assert torch.allclose(recolour(x, [step]), expected.clamp(0, 1), atol=1e-6), step


def test_blur_is_a_gaussian_and_zero_leaves_alone():
    x = torch.zeros(2, 1, 41, 41).expand(2, 3, 41, 41).clone()
    x[:, :, 20, 20] = 1
    out = recolour(x, [(("blur", 1.15),), (("blur", 0.),)])
    d = torch.arange(41) - 20.
    bell = torch.exp(-d ** 2 / (2 * 1.15 ** 2))
    assert torch.allclose(out[0, 0], torch.outer(bell, bell) / bell.sum() ** 2, atol=1e-5)
    assert torch.allclose(out[1], x[1], atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("colour", [Photometric(), Jitter(.3, .3, .3, .1), Jitter(.2, .2, .2, .2, .8, False), Blur()])
def test_colours_of_a_batch_are_those_of_its_singles(colour, device):
    x = torch.stack([planes(picture(i)[0]) for i in range(5)])
    chains = [colour.draw(numpy_rng("chain", i)) for i in range(5)]
    together = recolour(x.to(device), chains).cpu()
    for i in range(5): assert torch.allclose(together[i], recolour(x[i], chains[i]), atol=2e-5)
    assert together.min() >= 0 and together.max() <= 1


def test_bytes_follow_tensors():
    image = cv2.GaussianBlur(picture("bytes", 90, 140)[0], (0, 0), 3)
    for i in range(20):
        for colour in (Photometric(), Jitter(.3, .3, .3, .1), Blur()):
            chain = colour.draw(numpy_rng("bytes", i))
            ours = recolour(image, chain).astype(float) / 255
            tensor = recolour(planes(image), chain).permute(1, 2, 0).numpy()
            assert np.abs(ours - tensor).mean() < .012, chain


def test_neutral_steps_change_nothing():
    image = picture("neutral")[0]
    chain = tuple(NEUTRAL.items())
    np.testing.assert_array_equal(recolour(image, chain), image)
    assert torch.equal(recolour(planes(image), chain), planes(image))
    assert torch.equal(recolour(planes(image), ()), planes(image))


def test_jitter_draws_what_it_says():
    jitter = Jitter(.3, .3, .3, .1)
    drawn = [dict(jitter.draw(numpy_rng("j", i))) for i in range(500)]
    assert {tuple(d) for d in drawn} > {("gain", "contrast", "grey", "hsv")}, "orders vary"
    for name in ("gain", "contrast", "grey"):
        values = np.array([d[name] for d in drawn])
        assert .7 <= values.min() < .72 and 1.28 < values.max() <= 1.3
    assert max(abs(d["hsv"][1]) for d in drawn) <= .1


# -- recipes

def test_published_values():
    hardness, seam, deeplab = RECIPES["hardness"], RECIPES["seam"], RECIPES["deeplabv2"]
    assert (hardness.crop, hardness.limit, hardness.tries, hardness.flip) == ((769, 769), .75, 10, .5)
    assert (hardness.scale.low, hardness.scale.high, hardness.scale.box) == (.5, 2., (1025, 2049))
    assert (seam.scale.long_side, seam.crop, seam.colours) == ((448, 768), (448, 448), (Jitter(.3, .3, .3, .1),))
    assert (deeplab.scale.choices, deeplab.crop, deeplab.normalise) == ((.5, .75, 1., 1.25, 1.5), (321, 321), CAFFE)
    assert (RECIPES["erfnet"].flip, RECIPES["erfnet"].shift) == (.5, 2)
    assert RECIPES["dacs_strong"].colours == (Jitter(.2, .2, .2, .2, .8, False), Blur(.15, 1.15, .5))
    assert IMAGENET.mean == (123.675, 116.28, 103.53) and IMAGENET.deviation == (58.395, 57.12, 57.375)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_on_bytes_tensors_and_batches(name):
    image, label = picture(name, 60, 90)
    small = recipe(name, scale=Scale(.6, 1.7), crop=(48, 64))
    depth = numpy_rng("depth").random((60, 90)).astype(np.float32) + 1
    for i in range(6):
        a = small(image, label, name, i, depth=depth)
        b = small(planes(image), torch.from_numpy(label).long(), name, i, depth=torch.from_numpy(depth))
        assert a.image.shape == (3, 48, 64) and a.image.dtype == torch.float32 and a.label.dtype == torch.int64
        assert (a.geometry, a.colour) == (b.geometry, b.colour)
        assert torch.equal(a.label, b.label) and torch.equal(a.maps["depth"], b.maps["depth"])
        unit = 255 if small.normalise is CAFFE else 5 if small.normalise else 1
        assert (a.image - b.image).abs().mean() < .02 * unit
        outside = torch.from_numpy(a.geometry.outside())
        assert (a.label[outside] == 255).all()
        assert set(a.label.unique().tolist()) <= set(np.unique(label).tolist()) | {255}
        if small.normalise and small.pad_mean: assert (a.image[:, outside] == 0).all()
    batch = small.batch(planes(image)[None].repeat(3, 1, 1, 1), torch.from_numpy(label).long()[None].repeat(3, 1, 1),
                        [(name, i) for i in range(3)])
    single = small(planes(image), torch.from_numpy(label).long(), name, 2)
    assert torch.equal(batch.label[2], single.label)
    assert torch.allclose(batch.image[2], single.image, atol=1e-3 * unit)


def test_choices_depend_on_the_keys_alone():
    image, label = picture("keys", 60, 90)
    first = recipe("hardness", crop=(40, 40), scale=Scale(.5, 2.))
    a, _, b = (first(image, label, "run", k, "name") for k in (1, 2, 1))
    assert torch.equal(a.image, b.image) and a.geometry == b.geometry
    assert len({first.geometry(label, "run", k) for k in range(30)}) > 25


def test_inputs_stay_as_they_were():
    image, label = picture("mine", 60, 90)
    copies, x = (image.copy(), label.copy()), planes(image)
    kept = x.clone()
    for name in RECIPES:
        small = recipe(name, scale=Scale(), crop=()) if name in ("none", "erfnet", "dacs_strong") else recipe(name)
        small(image, label, 0); small(x, torch.from_numpy(label).long(), 0)
    none = Augment(normalise=IMAGENET)
    none(image, label, 0); none(x, torch.from_numpy(label).long(), 0)
    np.testing.assert_array_equal(image, copies[0]); np.testing.assert_array_equal(label, copies[1])
    assert torch.equal(x, kept)


def test_class_limit_and_wish():
    label = np.zeros((64, 128), np.uint8)
    label[:, 100:] = 1
    label[30:36, 60:66] = 2
    limited = Augment(crop=(32, 32), limit=.75, tries=50)
    for i in range(20):
        crop = limited.geometry(label, "limit", i)(label, "label")
        assert np.bincount(crop.ravel()).max() < .75 * crop.size
    wished = Augment(crop=(32, 32), tries=200)
    for i in range(10): assert (wished.geometry(label, "wish", i, wanted=(2, 17))(label, "label") == 2).sum() > 17
    hopeless = Augment(crop=(32, 32), limit=.1).geometry(label, 0)
    assert hopeless.size == (32, 32), "after the last try a window is taken regardless"


def _augment_in_child(small, image, label): return small(image, label, "spawn", 3).image


def test_recipes_travel_to_spawned_workers():
    image, label = picture("spawn", 60, 90)
    small = recipe("seam", crop=(40, 40), scale=Scale(long_side=(50, 80)))
    assert pickle.loads(pickle.dumps(small)) == small
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_augment_in_child, (small, image, label))
    assert torch.equal(there, small(image, label, "spawn", 3).image)


def test_rare_class_vectors():
    shares = (.6, .3, .09, .01)
    np.testing.assert_allclose(rare_class_probabilities(shares, 1), (.1718, .2320, .2862, .3100), atol=5e-5)
    np.testing.assert_allclose(rare_class_probabilities(shares, .1), (.0018, .0365, .2981, .6635), atol=5e-5)
    cold = rare_class_probabilities(shares, .01)
    np.testing.assert_allclose(cold[2:], (.000335, .999665), atol=5e-7)
    assert [f"{p:.0e}" for p in cold[:2]] == ["2e-26", "3e-13"]


def test_rare_classes_only_offer_images_that_have_them():
    counts = np.array([[9000, 10, 0], [9000, 4000, 0], [9000, 5000, 0]])
    rare = RareClasses(counts)
    assert rare.probabilities()[2] == 0, "no image holds class 2"
    assert {rare.draw(i) for i in range(50)} == {(1, 1), (1, 2)}


# -- mixing

@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", range(1, 8))
def test_classmix_takes_half_rounded_up(n, device):
    rng = numpy_rng("classmix", n)
    labels = torch.from_numpy(rng.integers(0, n, (3, 24, 24)))
    labels[:, :3, :3] = 255
    seen = torch.zeros(n)
    for i in range(40):
        mask = class_mask(labels.to(device), "t", i)[:, 0].cpu()
        for y, m in zip(labels, mask):
            inside, outside = set(y[m].tolist()), set(y[~m].tolist())
            assert len(inside) == math.ceil(len(set(y.tolist() if y.ndim == 1 else y.flatten().tolist()) - {255}) / 2)
            assert not inside & outside and 255 not in inside
            seen[list(inside)] += 1
    assert seen.min() > 0 and (n < 2 or seen.max() < 2.2 * seen.min())


def test_classmix_among_the_batch():
    labels = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)]).long()
    own = class_mask(labels, 0)
    assert own.all(), "an image of one class gives it"
    shared = torch.stack([class_mask(labels, i, among="batch") for i in range(60)]).float().mean((0, 2, 3, 4))
    assert (shared > .2).all() and (shared < .8).all(), "one of the batch's two classes is chosen for each image"
    assert not class_mask(torch.full((1, 4, 4), 255), 0).any(), "void is never pasted"


def test_paste_keeps_the_three_together():
    x, y = torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20)
    a, b = torch.zeros(2, 16, 20).long(), torch.ones(2, 16, 20).long()
    for weight in (.25, torch.tensor([.25, .25]), torch.full((2, 16, 20), .25)):
        mixed = cut_mix((x, a), (y, b, weight), "k", chance=1)
        m = mixed.mask
        assert torch.equal(mixed.image, torch.where(m, x, y))
        assert torch.equal(mixed.label, (~m[:, 0]).long())
        assert torch.equal(mixed.weight, torch.where(m[:, 0], 1., .25))
    with pytest.raises(HotsegError, match="one size"): paste(m, (x, a), (y[:1], b[:1]))


def test_boxes_are_boxes_of_the_asked_area():
    masks = box_mask(4000, 50, 90, "boxes", area=(.1, .3), chance=1)[:, 0]
    rows, columns = masks.any(2), masks.any(1)
    assert torch.equal(masks, rows[:, :, None] & columns[:, None])
    assert (rows.int().diff(dim=1).abs().sum(1) <= 2).all()
    share = masks.float().mean((1, 2))
    assert .08 < share.min() and share.max() < .32
    assert abs(masks.float().mean(0)[:, :45].mean() - masks.float().mean(0)[:, 45:].mean()) < .015
    assert not box_mask(4, 8, 8, 0, chance=0).any()
    assert box_mask(4, 8, 8, 0, area=(1, 1), chance=1).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(40, 64), (41, 63), (64, 40), (37, 37)])
def test_fda_against_full_transforms(size, device):
    rng = numpy_rng("fda", size)
    source, target = (255 * rng.random((2, 3, *size)) for _ in range(2))
    for beta in (0, .03, .09, .2):
        b = half_window(*size, beta)
        s, t = np.fft.fftshift(np.fft.fft2(source), axes=(-2, -1)), np.fft.fftshift(np.fft.fft2(target), axes=(-2, -1))
        window = np.s_[..., size[0] // 2 - b:size[0] // 2 + b + 1, size[1] // 2 - b:size[1] // 2 + b + 1]
        amplitude = np.abs(s)
        amplitude[window] = np.abs(t)[window]
        true = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(s)), axes=(-2, -1)))
        assert np.abs(true.imag).max() < 1e-9, "the odd window leaves a real image real"
        ours = fda(*(torch.from_numpy(a).float().to(device) for a in (source, target)), beta).cpu()
        np.testing.assert_allclose(ours.numpy(), true.real, atol=5e-3)


def test_fda_facts():
    assert [half_window(512, 1024, b) for b in (.01, .05, .09)] == [5, 25, 46]
    assert [half_window(720, 1280, b) for b in (.01, .05, .09)] == [7, 36, 64]
    x, y = 255 * planes(picture("s", 64, 96)[0])[None], 255 * planes(picture("t", 64, 96)[0])[None]
    assert (fda(x, x, .09) - x).abs().max() < 1e-4
    assert torch.allclose(fda(x, y, .05).mean((2, 3)), y.mean((2, 3)), atol=1e-3)
    assert torch.isfinite(fda(torch.zeros_like(x), y)).all()


def test_lab_by_definition_and_back():
    x = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    a = x[0].permute(1, 2, 0).double().numpy()
    linear = np.where(a > .04045, ((a + .055) / 1.055) ** 2.4, a / 12.92)
    xyz = linear @ np.array([[.412453, .357580, .180423], [.212671, .715160, .072169], [.019334, .119193, .950227]]).T
    f = xyz / (.95047, 1., 1.08883)
    f = np.where(f > .008856, np.cbrt(f), 7.787 * f + 16 / 116)
    true = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    np.testing.assert_allclose(rgb_to_lab(x)[0].permute(1, 2, 0).numpy(), true, atol=.02)
    assert (lab_to_rgb(rgb_to_lab(x)) - x).abs().max() < 1e-4


def test_lab_style_matches_the_moments():
    x = .3 + .3 * planes(picture("a", 64, 96)[0])[None]
    y = .35 + .2 * planes(picture("b", 40, 50)[0])[None].flip(1)
    out = rgb_to_lab(lab_style(x, y))
    want = rgb_to_lab(y)
    assert torch.allclose(out.mean((2, 3)), want.mean((2, 3)), atol=.3)
    assert torch.allclose(out.flatten(2).std(2), want.flatten(2).std(2), rtol=.05)


def test_patches_are_whole_blocks():
    mask = patch_mask(300, 64, 96, "p", block=32, ratio=.7)
    blocks = mask.reshape(300, 2, 32, 3, 32).permute(0, 1, 3, 2, 4).flatten(3)
    assert (blocks.std(3) == 0).all() and abs(1 - mask.mean() - .7) < .03
    assert patch_mask(1, 64, 64, 0, ratio=0.).all() and not patch_mask(1, 64, 64, 0, ratio=1.).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_device():
    x, y = torch.rand(2, 3, 64, 96, device="cuda"), torch.randint(0, 19, (2, 64, 96), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        class_mix((x, y), (x, y), 0); cut_mix((x, y), (x, y, .5), 0)
        fda(x, x); lab_style(x, x); patch_mask(2, 64, 96, 0, device="cuda")
        recipe("seam", crop=(40, 40), scale=Scale(.6, 1.5)).batch(x, y, [(0,), (1,)])
        recipe("dacs_strong").batch(x, y, [(0,), (1,)])
    finally: torch.cuda.set_sync_debug_mode("default")
