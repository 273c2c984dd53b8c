"""The same numbers on CPU and GPU."""
import numpy as np
import pytest
import torch
from torch import nn

from hotseg.core import numpy_rng, torch_rng
from hotseg.data.colour import Blur, Jitter, Normalise, Photometric, recolour
from hotseg.data.loaders import finish, pair_loaders
from hotseg.data.mix import class_mix, fda, lab_style
from hotseg.data.scenes import StreetScenes
from hotseg.distort.blur import gaussian_blur
from hotseg.distort.turbulence import Turbulence
from hotseg.distort.warp import compose, inverse_flow, jacobian, valid_mask, warp, warp_labels
from hotseg.feedback.losses import iterative_focal_loss
from hotseg.feedback.net import Restorer
from hotseg.labels import CITYSCAPES, IGNORE
from hotseg.losses import ClassWeights, Focal, Ohem, pixel_loss
from hotseg.metrics import Confusion, Evaluation
from hotseg.models.erfnet import erfnet
from hotseg.models.unet import unet
from hotseg.train.evaluate import evaluate

C = len(CITYSCAPES)


def noise(*shape, key=0): return torch.randn(shape, generator=torch_rng("gpu", key, *shape))
def image(batch=2, h=48, w=64): return noise(batch, 3, h, w).sigmoid()


def labels(batch=2, h=48, w=64):
    coarse = torch.randint(0, C, (batch, h // 8, w // 8), generator=torch_rng("gpu", "labels"))
    full = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    full[:, -4:] = IGNORE
    return full


def both(f, device, *tensors):
    "What f makes of the tensors here and there; there it must also stay"
    here, there = f(*tensors), f(*(t.to(device) for t in tensors))
    for a, b in zip(*(x if isinstance(x, (tuple, list)) else (x,) for x in (here, there))):
        assert b.device.type == torch.device(device).type and a.dtype == b.dtype
        yield a.detach(), b.detach().cpu()


def agree(f, device, *tensors, atol=1e-5):
    for a, b in both(f, device, *tensors): torch.testing.assert_close(a, b, rtol=1e-4, atol=atol)


def agree_nearly(f, device, *tensors, share=.999):
    "Whole numbers that hang on a rounding may differ here and there"
    for a, b in both(f, device, *tensors): assert (a == b).float().mean() >= share


# --- distortion

def test_warp_and_its_gradient(device):
    def derivatives(x, flow):
        x, flow = x.clone().requires_grad_(), flow.clone().requires_grad_()
        out = warp(x, flow)
        return out, *torch.autograd.grad(out.square().sum(), (x, flow))
    agree(warp, device, image(), 3 * noise(2, 2, 48, 64), atol=1e-4)
    agree(derivatives, device, image(), 3 * noise(2, 2, 48, 64), atol=1e-4)


def test_flow_algebra(device):
    smooth = Turbulence(2, 6).sample(48, 64, 2, [torch_rng("a"), torch_rng("b")]).flow
    agree(lambda f: compose(f, -f), device, smooth, atol=1e-4)
    agree(lambda f: inverse_flow(f)[0], device, smooth, atol=1e-2)
    agree(jacobian, device, smooth)
    agree_nearly(valid_mask, device, smooth, share=.99)


def test_warped_labels(device):
    agree_nearly(lambda l, f: warp_labels(l, f, IGNORE), device, labels(), 3 * noise(2, 2, 48, 64))


def test_turbulence_is_drawn_alike_and_applied_alike(device):
    haze = Turbulence(2, 5, blur_px=.8)
    here, there = (haze.sample(48, 64, 2, [torch_rng("a"), torch_rng("b")], device=d) for d in ("cpu", device))
    assert there.flow.device.type == torch.device(device).type
    assert torch.equal(here.flow, there.flow.cpu()), "drawn on the CPU wherever it is wanted"
    x = image()
    torch.testing.assert_close(here.apply(x), there.apply(x.to(device)).cpu(), rtol=0, atol=1e-4)
    agree(lambda x: gaussian_blur(x, 1.3), device, x)


# --- colours and labels

@pytest.mark.parametrize("kind", [Photometric(chance=1.), Jitter(.4, .4, .4, .1), Blur(chance=1.)],
                         ids=lambda k: type(k).__name__)
def test_colour_steps(kind, device):
    chains = [kind.draw(numpy_rng("gpu", "colour", i)) for i in range(4)]
    agree(lambda x: torch.stack([recolour(i, c) for i, c in zip(x, chains)]), device, image(4), atol=1e-4)


def test_normalise(device):
    ours = Normalise((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), bgr=True)
    agree(ours, device, image())
    agree(lambda x: ours.undo(ours(x)), device, image())


def test_bytes_become_floats_bit_by_bit(device):
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    ids = torch.randint(0, 256, (2, 16, 16), dtype=torch.uint8, generator=torch_rng("gpu", "ids"))
    for a, b in both(lambda *parts: finish(parts), device, every_byte, ids): assert torch.equal(a, b)


def test_mixing(device):
    a, b, l, m = image(), 1 - image(), labels(), labels().flip(2)
    def mixed(a, b, l, m):
        out = class_mix((a, l), (b, m), "gpu")
        return out.image, out.label, out.weight
    agree(mixed, device, a, b, l, m)
    agree(lambda a, b: fda(a, b, .05), device, a, b, atol=1e-3)
    agree(lab_style, device, a, b, atol=1e-3)


# --- losses and metrics

WEIGHTERS = dict(plain=[], classes=[ClassWeights(np.linspace(.5, 3, C))], focal=[Focal(2.)],
                 differentiated=[Focal(.5, detach=False)], ohem=[Ohem(.25)], threshold=[Ohem(.1, .7)],
                 together=[ClassWeights(np.linspace(.5, 3, C)), Focal(1.), Ohem(.5)])


@pytest.mark.parametrize("normalise", ["image", "batch", "count"])
@pytest.mark.parametrize("weighters", WEIGHTERS.values(), ids=WEIGHTERS)
def test_pixel_loss_and_its_gradient(weighters, normalise, device):
    def value_and_slope(x, target):
        x = x.clone().requires_grad_()
        loss = pixel_loss(x, target, weighters, normalise)
        return loss, *torch.autograd.grad(loss, x)
    agree(value_and_slope, device, 3 * noise(2, C, 48, 64), labels(), atol=1e-6)


def test_iterative_focal_loss(device):
    def loss(a, b, target): return iterative_focal_loss([a, b], target, (0., .2), None, torch.linspace(.5, 2, C))
    agree(loss, device, noise(2, C, 48, 64), noise(2, C, 48, 64, key=1), labels())


def test_nothing_but_void_costs_nothing(device):
    void = torch.full((2, 8, 8), IGNORE, device=device)
    loss = pixel_loss(noise(2, C, 8, 8).to(device), void, [Ohem(.25), Focal(2.)])
    assert float(loss) == 0


def test_confusion_counts_alike(device):
    guess, target = noise(3, C, 48, 64).argmax(1), labels(3)
    here, there = Confusion(C).add(guess, target), Confusion(C).add(guess.to(device), target.to(device))
    np.testing.assert_array_equal(here.matrix, there.matrix)
    assert here.miou() == there.miou()


def test_evaluation_results_are_alike(device):
    logits, target = 4 * noise(3, C, 48, 64), labels(3)
    here = Evaluation(CITYSCAPES).add(logits, target).results()
    there = Evaluation(CITYSCAPES).add(logits.to(device), target.to(device)).results()
    assert here["iou"] == there["iou"] and here["miou"] == there["miou"]
    for name in ("ece", "auroc", "boundary_miou", "image_miou"):
        assert here[name] == pytest.approx(there[name], rel=1e-5)


# --- networks

NETS = dict(erfnet=lambda: erfnet(C, "quick"), erfnet_full=lambda: erfnet(C, "full"), unet=lambda: unet("quick"))


def still_net(build):
    torch.manual_seed(0)
    return build().eval()


@pytest.mark.parametrize("build", NETS.values(), ids=NETS)
@torch.no_grad()
def test_networks(build, device):
    net = still_net(build)
    x = image(2, 52, 70)  # padded and cropped
    here = net(x)
    torch.testing.assert_close(here, net.to(device)(x.to(device)).cpu(), rtol=1e-3, atol=1e-3)
    assert net.to("cpu")(x).equal(here)


@torch.no_grad()
def test_restorer_with_feedback(device):
    net = still_net(lambda: Restorer(C, unet("quick"), scale=1.))
    x, change = image(), noise(2, C, 48, 64).softmax(1) - 1 / C
    def look(x, change): return net.to(x.device)(x, change, x)
    agree(look, device, x, change, atol=2e-3)


@torch.no_grad()
def test_channels_last_is_the_same_network(device):
    net, x = still_net(NETS["erfnet"]).to(device), image().to(device)
    plain = net(x)
    last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, rtol=1e-3, atol=1e-3)


def test_evaluate_a_network(device):
    "The whole way from items to a row"
    items = StreetScenes(4, height=48, width=96)
    net = still_net(NETS["erfnet"])
    rows = []
    for d in ("cpu", device):
        loaders = pair(items, d)
        rows.append(evaluate(net.to(d), loaders.valid, CITYSCAPES))
    assert rows[0]["miou"] == pytest.approx(rows[1]["miou"], abs=.2)
    assert rows[1]["ms"] > 0


def pair(items, device):
    return pair_loaders(items, items, Turbulence(1, 4), batch=2, device=device)


def test_loaders_bring_the_same_batches(device):
    items = StreetScenes(4, height=48, width=96)
    for a, b in zip(*(list(pair(items, d).train) for d in ("cpu", device))):
        for here, there in zip(a, b):
            assert there.device.type == torch.device(device).type and torch.equal(here, there.cpu())


# --- one update of every method

def without_dropout(module):
    "Its random numbers are each device's own"
    for m in module.modules():
        if isinstance(m, (nn.Dropout, nn.Dropout2d)): m.p = 0.


def updated(learn, device):
    "Weights and statistics after one batch, and what they were; the loss"
    method = learn.method
    method.modules.to(device).train()
    without_dropout(method.modules)
    before = {k: v.detach().cpu().clone() for k, v in method.modules.state_dict().items()}
    loss = float(method.step(next(iter(learn.dls.train))))
    method.settle()
    return before, {k: v.detach().cpu() for k, v in method.modules.state_dict().items()}, loss, int(method.skipped)


def test_one_update_of_every_method(method, device, make):
    start, here, loss_here, skipped_here = updated(make(method, "cpu"), "cpu")
    other, there, loss_there, skipped_there = updated(make(method, device), device)
    assert loss_here == pytest.approx(loss_there, rel=1e-3)
    assert skipped_here == skipped_there == 0
    moved = dict(away=0., apart=0.)
    for name, first in start.items():
        assert torch.equal(first, other[name]), f"{name} does not begin alike"
        if not first.is_floating_point(): continue
        torch.testing.assert_close(here[name], there[name], rtol=1e-2, atol=2e-2, msg=lambda m, n=name: f"{n}: {m}")
        moved["away"] += float((here[name] - first).square().sum())
        moved["apart"] += float((here[name] - there[name]).square().sum())
    assert moved["away"] > 0
    # Adam's first step is the sign of the gradient: where that is nearly 0 a rounding turns a step round
    assert moved["apart"] < .05 * moved["away"], "the two devices went different ways"
