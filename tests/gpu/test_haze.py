"""Haze on the GPU: the same fields from the same noise, the same statistics from its own."""
from itertools import islice

import pytest
import torch

from hotseg.core import torch_rng
from hotseg.distort.fields import field_of_covariance, period_for, spawn, torus_lags
from hotseg.distort.technion import technion_field
from hotseg.distort.turbulence import Turbulence
from hotseg.distort.view import Motion, View

H, W = 48, 80
DRIFT = Motion(wind_px_s=(45., -20.), boiling_s=.1)
HAZES = dict(elastic=Turbulence(1., 5., blur_px=.7, motion=DRIFT),
             technion=Turbulence(.3, model="technion", motion=DRIFT),
             coded=Turbulence(1., model="technion", geometry="coded", motion=DRIFT),
             aperture=Turbulence(d_over_r0=.5, model="aperture", motion=DRIFT))


def bell():
    "Two components, two sources"
    dx, dy = torus_lags(period_for(H, W))
    return field_of_covariance(torch.eye(2)[:, :, None, None] * torch.exp(-(dx**2 + dy**2) / 64), H, W)


FIELDS = dict(rederived=lambda: technion_field(View(), H, W), coded=lambda: technion_field(View(), H, W, "coded"),
              published=lambda: technion_field(View(), H, W, "coded", "abs", "blackman"), bell=bell)


@pytest.fixture(params=FIELDS)
def field(request): return FIELDS[request.param]()


@pytest.fixture(params=HAZES)
def haze(request): return HAZES[request.param]


def near(here, there, device, atol=1e-4):
    assert there.device.type == torch.device(device).type and there.dtype == here.dtype
    torch.testing.assert_close(here, there.cpu(), rtol=0, atol=atol)


def keys(n): return [torch_rng("gpu", "haze", i) for i in range(n)]


# --- the same noise

def test_a_field_is_the_same_wherever_it_is_shaped(field, device):
    near(field.draw(torch_rng("gpu")), field.draw(torch_rng("gpu"), device), device)
    near(field.draw(torch_rng("gpu"), apart=True), field.draw(torch_rng("gpu"), device, apart=True), device)


def test_both_ways_of_transforming_agree(field, device):
    "The plain way in torch, in double precision, is the judge of both"
    noise = field.noise(torch_rng("gpu"))
    near(field.shaped(noise.to(torch.complex128)).float(), field.shaped(noise.to(device)), device)


def test_a_batch_is_a_loop_of_singles(field, device):
    batch = field.draw_batch(keys(3), device)
    assert len(batch) == 3
    for one, rng in zip(batch, keys(3)): near(field.draw(rng), one, device)


def test_frames_are_the_same(field, device):
    here, there = (list(islice(field.frames(torch_rng("gpu"), (1.3, -.4), .8, where), 4)) for where in ("cpu", device))
    for a, b in zip(here, there): near(a, b, device, atol=3e-4)


def test_haze_is_the_same(haze, device):
    here, there = (haze.sample(H, W, 2, keys(2), where) for where in ("cpu", device))
    near(here.flow, there.flow, device)
    picture = torch.rand(2, 3, H, W, generator=torch_rng("gpu", "picture"))
    near(here.apply(picture), there.apply(picture.to(device)), device, atol=2e-3)
    near(here.blur_map(), there.blur_map(), device, atol=1e-2)


def test_sequences_are_the_same_and_grow_at_their_end(haze, device):
    here, there = (haze.sequence(H, W, 3, torch_rng("gpu"), device=where) for where in ("cpu", device))
    near(here.flow, there.flow, device, atol=3e-4)
    longer = haze.sequence(H, W, 4, torch_rng("gpu"), device=device)
    assert torch.equal(longer.flow[:3], there.flow)


def test_the_gradient_reaches_the_picture(haze, device):
    sample = haze.sample(H, W, 1, keys(1), device)
    picture = torch.rand(1, 3, H, W, device=device, requires_grad=True)
    sample.apply(picture).sum().backward()
    total = float(picture.grad.sum())
    assert picture.grad.isfinite().all() and abs(total / picture.numel() - 1) < .1


# --- noise of its own

def off(per_sample, claim):
    "Distance of the mean from the claim, in standard errors"
    return abs(float((per_sample.mean() - claim) / (per_sample.std() / len(per_sample)**.5)))


def test_noise_of_the_device_has_the_same_statistics(field, device):
    "Variance, correlation along rows and columns, cross-correlation, 200 fields; a bound for 19 claims together"
    rngs = [spawn(rng, device) for rng in keys(200)]
    drawn = field.draw_batch(rngs, device).double()
    assert drawn.device.type == torch.device(device).type
    covariance = field.covariance()
    lags = (0, 0), (1, 0), (0, 1), (7, 0), (0, 7), (9, 9)
    for a, b, x, y in [(*pair, *lag) for pair in ((0, 0), (1, 1), (0, 1)) for lag in lags]:
        product = (drawn[:, a, y:, x:] * drawn[:, b, :H - y, :W - x]).mean((1, 2))
        assert off(product, covariance[a, b, y, x].item()) < 4.2, (a, b, x, y)
    assert off(drawn.mean((1, 2, 3)), 0) < 4.2


def test_noise_of_the_device_repeats_itself(haze, device):
    first, again = (haze.sample(H, W, 2, keys(2), device, noise=device).flow for _ in range(2))
    assert first.device.type == torch.device(device).type and torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_noise_of_the_gpu_is_its_own(haze, cuda):
    if haze.model == "elastic": pytest.skip("stills of the lattice are drawn on the CPU")
    here, there = (haze.sample(H, W, 1, keys(1), cuda, noise=where).flow for where in ("cpu", cuda))
    assert not torch.equal(here, there)
    assert .2 < float(there.std() / here.std()) < 5
