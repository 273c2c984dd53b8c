"""The simulator against theory, over models and options, and the proof that a wrong simulator would be seen."""
import math
import warnings
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from hotseg.core import HotsegError, torch_rng
from hotseg.distort.sensor import TurbulenceSensor
from hotseg.distort.statistics import (broken, claim, covariance_claims, directions, draws, family_bound, frame_claims,
                                       lag_product, torus_covariance)
from hotseg.distort.technion import technion_field
from hotseg.distort.theory import (aoa_constant, aoa_correlation, aoa_variance, fried, tilt_integral, tilt_variance,
                                   vector_covariance)
from hotseg.distort.turbulence import Turbulence
from hotseg.distort.view import Motion, View
from hotseg.distort.zernike import noll_covariance

FIELDS = 200
BOUNDED = View(focal_px=37_500., outer_scale_m=.1)  # an aperture a pixel, forgets within a dozen: many samples a field
LENS = View(aperture_m=.05, focal_px=3e5, distance_m=3750., wavelength_m=5e-7, outer_scale_m=.5)  # 4 px an aperture

MODELS = {
    "elastic": dict(strength_px=.8, correlation_px=6.),
    "elastic blurred": dict(strength_px=.8, correlation_px=6., blur_px=.7),
    "elastic scaled": dict(strength_px=.8, correlation_px=6., blur_px=.7, depth="scaled", reference_m=100.),
    "elastic slabs": dict(strength_px=.8, correlation_px=6., depth="slabs", reference_m=100., slabs=3),
    "technion": dict(model="technion", strength_px=.6),
    "technion coded": dict(model="technion", strength_px=.6, geometry="coded"),
    "technion published": dict(model="technion", strength_px=.6, geometry="coded", normalise="per_sample",
                               spectrum="abs", window="blackman", edge="black"),
    "technion plane": dict(model="technion", cn2=1e-14, view=View(wave="plane")),
    "technion scaled": dict(model="technion", strength_px=.6, depth="scaled", view=View(distance_m=100.)),
    "technion slabs": dict(model="technion", strength_px=.6, depth="slabs", slabs=3, view=View(distance_m=100.)),
    "technion sensor": dict(model="technion", strength_px=.6, sensor=TurbulenceSensor(noise=2.)),
    "aperture": dict(model="aperture", d_over_r0=1., view=LENS),
    "aperture tilt": dict(model="aperture", strength_px=.6, modes=3),
    "aperture scaled": dict(model="aperture", strength_px=.6, modes=10, layers=2, depth="scaled",
                            view=View(distance_m=100., focal_px=5e3)),
    "aperture layers": dict(model="aperture", r0_m=.05, view=LENS, modes=10, layers=3),
    "blur then tilt": dict(model="aperture", d_over_r0=1., view=LENS, modes=10, order="blur-tilt"),
}
EXACT = [name for name in MODELS if name != "technion published" and "sensor" not in name]


def haze(name="", **changes):
    "A simulator of the table, with changes, its warnings taken as known"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Turbulence(**{**MODELS.get(name, {}), **changes})


def depth(name, height, width):
    return dict(depth=torch.linspace(20, 200, height)[:, None].expand(height, width)) \
        if haze(name).depth != "none" else {}


def picture(height, width, batch=1):
    row, column = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    wave = torch.stack([(row / 4).sin(), (column / 5).cos(), ((row + column) / 6).sin()])
    return (wave / 4 + .5).expand(batch, 3, height, width).contiguous()


def sampled(name, height, width, *keys, **changes):
    return haze(name, **changes).sample(height, width, rng=torch_rng(*keys), **depth(name, height, width))


# The interface, over all models and options

@pytest.mark.parametrize("height, width", [(16, 16), (17, 24), (24, 17), (33, 31)])
@pytest.mark.parametrize("name", MODELS)
def test_any_size(name, height, width):
    sample = sampled(name, height, width, "size")
    hazy = sample.apply(picture(height, width))
    assert sample.flow.shape == (1, 2, height, width) and sample.flow.dtype == torch.float32
    assert hazy.shape == (1, 3, height, width) and hazy.isfinite().all() and sample.flow.isfinite().all()
    assert sample.blur_map().shape == (1, height, width) and (sample.flow != 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_a_loop_of_singles(name):
    maps = depth(name, 18, 23)
    together = haze(name).sample(18, 23, 3, torch_rng("batch"), **maps)
    rng = torch_rng("batch")
    alone = [haze(name).sample(18, 23, rng=rng, **maps) for _ in range(3)]
    assert torch.equal(together.flow, torch.cat([s.flow for s in alone]))
    scene = picture(18, 23, 3)
    hazy = together.apply(scene)
    for one, sample in zip(hazy, alone):
        torch.testing.assert_close(one[None], sample.apply(scene[:1]), atol=2e-6, rtol=0)
    keyed = haze(name).sample(18, 23, 2, [torch_rng("b"), torch_rng("a")], **maps)
    assert torch.equal(keyed.flow[1:], haze(name).sample(18, 23, rng=torch_rng("a"), **maps).flow)


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_takes_one_draw(name):
    "So the haze of a picture does not depend on the noise of the one before; stills of the elastic lattice are older"
    if haze(name).model == "elastic" and haze(name).depth != "slabs": pytest.skip("the recorded rows rest on its bits")
    rng, other = torch_rng("draws"), torch_rng("draws")
    haze(name).sample(18, 23, 2, rng, **depth(name, 18, 23))
    for _ in range(2): torch.randint(2**63 - 1, (), generator=other)
    assert torch.equal(rng.get_state(), other.get_state())


@pytest.mark.parametrize("name", MODELS)
def test_a_longer_clip_begins_with_the_shorter(name):
    moving = haze(name, motion=Motion(wind_px_s=(30., -15.), boiling_s=.2))
    maps = depth(name, 18, 23)
    short, longer = (moving.sequence(18, 23, n, torch_rng("prefix"), **maps) for n in (2, 4))
    streamed = list(islice(moving.frames(18, 23, torch_rng("prefix"), **maps), 4))
    assert torch.equal(longer.flow[:2], short.flow)
    assert torch.equal(longer.flow, torch.cat([s.flow for s in streamed]))
    assert not torch.equal(longer.flow[0], longer.flow[1])
    still = haze(name).sequence(18, 23, 3, torch_rng("prefix"), **maps).flow
    torch.testing.assert_close(still[2], still[0])


@pytest.mark.parametrize("name", EXACT)
def test_gradients_reach_the_picture(name):
    "The adjoint: <A x, y> = <x, A' y>, as the haze is linear in the picture"
    sample = sampled(name, 20, 27, "gradient")
    x = picture(20, 27).requires_grad_()
    y = torch.rand(1, 3, 20, 27, generator=torch_rng("other side"))
    (sample.apply(x) * y).sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close((x.grad * x).sum(), (sample.apply(x.detach()) * y).sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_threads_do_not_change_the_haze(name):
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sampled(name, 40, 61, "threads"))
    finally: torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other.flow, results[0].flow, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.apply(picture(40, 61)), results[0].apply(picture(40, 61)), rtol=0, atol=1e-5)
    assert torch.equal(sampled(name, 40, 61, "threads").flow, sampled(name, 40, 61, "threads").flow)


@pytest.mark.parametrize("name", [n for n in EXACT if "published" not in n])
def test_a_constant_picture_stays(name):
    flat = torch.full((1, 3, 20, 27), .4)
    torch.testing.assert_close(sampled(name, 20, 27, "flat").apply(flat), flat, atol=2e-5, rtol=0)


NOTHING = {"strength_px": 0., "cn2": 0., "d_over_r0": 0.}


@pytest.mark.parametrize("name, strength", [
    ("elastic", "strength_px"), ("elastic slabs", "strength_px"),
    *((n, s) for n in ("technion", "technion coded", "aperture", "aperture tilt") for s in NOTHING)])
def test_no_strength_is_no_change(name, strength):
    "Bit for bit"
    given = {"strength_px": None, "d_over_r0": None, strength: 0.}
    sample = sampled(name, 20, 27, "zero", **given)
    assert not sample.flow.any() and torch.equal(sample.apply(picture(20, 27)), picture(20, 27))


@pytest.mark.parametrize("name", ["technion", "technion coded", "aperture tilt", "aperture"])
def test_twice_the_air_is_root_two_in_flow(name):
    given = dict.fromkeys(("strength_px", "d_over_r0"))
    one, two = (sampled(name, 20, 27, "air", **given, cn2=c).flow for c in (1e-14, 2e-14))
    torch.testing.assert_close(two, math.sqrt(2) * one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["technion", "aperture tilt"])
def test_every_strength_is_the_same_haze(name):
    "The same air told in pixels, Cn2, r0 and D / r0 moves the same pixels as far"
    first = haze(name)
    told = [dict(strength_px=first.tilt_px), dict(cn2=first.air), dict(r0_m=first.fried_m),
            dict(d_over_r0=first.apertures)]
    flows = [sampled(name, 20, 27, "units", **{"strength_px": None, **t}).flow for t in told]
    for flow in flows[1:]: torch.testing.assert_close(flow, flows[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["elastic", "technion", "technion coded", "aperture tilt"])
def test_there_and_back(name):
    sample = sampled(name, 64, 81, "back", strength_px=.5)
    valid, residual, scene = sample.valid(), sample.inverse()[1], picture(64, 81)
    assert valid.float().mean() > .75 and residual[valid].max() <= .1
    after = (sample.restore(sample.apply(scene)) - scene).square().mean(1)[valid].mean()
    assert after < .1 * (sample.apply(scene) - scene).square().mean(1)[valid].mean()


@pytest.mark.parametrize("words, wanted", [
    (dict(model="technion", cn2=-1e-14), "m^(-2/3)"), (dict(model="aperture", r0_m=0.), "m, 1e-05 or more"),
    (dict(model="technion", cn2=1e-14, r0_m=.1), "exactly one"), (dict(model="technion"), "exactly one"),
    (dict(model="technion", strength_px=float("nan")), "pixels rms per axis"),
    (dict(model="technion", strength_px=1., geometry="flat"), "rederived, coded"),
    (dict(model="aperture", strength_px=1., modes=1), "3"), (dict(strength_px=1., correlation_px=0.), "pixels"),
    (dict(model="quick", strength_px=1.), "technion")])
def test_bad_numbers_are_refused_with_unit_and_range(words, wanted):
    with pytest.raises(HotsegError, match=wanted.replace("^", r"\^").replace("(", r"\(").replace(")", r"\)")):
        Turbulence(**words)


@pytest.mark.parametrize("call, wanted", [
    (lambda: aoa_constant(0), "more than 0"), (lambda: aoa_correlation(1, 30, "flat"), "rederived, coded"),
    (lambda: fried(LENS, -1), "m^(-2/3)"), (lambda: tilt_variance(LENS, 0), "metres"),
    (lambda: noll_covariance(1), "whole number"), (lambda: tilt_integral(1, 0), "metres")])
def test_theory_refuses_too(call, wanted):
    with pytest.raises(HotsegError) as refused: call()
    assert wanted in str(refused.value)


# Statistics: what each model claims, by fields drawn through the public interface

def expected(turbulence, **how):
    "Covariance (2, 2, lags) in square pixels that a model claims"
    view, sigma = turbulence.view, turbulence.tilt_px

    def of_air(dx, dy):
        beta = np.hypot(dx, dy) / view.theta_d_px
        curves = aoa_correlation(beta, view.gamma, how.get("geometry", turbulence.geometry), view.wave) \
            if turbulence.model == "technion" else tilt_integral(beta, view.gamma)
        return sigma**2 * vector_covariance(dx, dy, *curves)

    def of_bell(dx, dy):
        bell = np.exp(-(dx**2 + dy**2) / 4 / turbulence.correlation_px**2)
        return sigma**2 * np.eye(2)[:, :, None] * bell
    return of_bell if turbulence.model == "elastic" else of_air


FAMILIES = {
    "elastic": dict(strength_px=2., correlation_px=3.),
    "technion": dict(model="technion", cn2=3e-13, view=BOUNDED),
    "technion coded": dict(model="technion", cn2=3e-13, view=BOUNDED, geometry="coded"),
    "technion plane": dict(model="technion", cn2=3e-13, view=replace(BOUNDED, wave="plane")),
    "technion published": dict(model="technion", cn2=3e-13),
    "aperture": dict(model="aperture", d_over_r0=3., view=LENS, modes=3),
}
LAGS = [*directions([0, 2, 4, 8, 16]), (1, 0), (0, 1)]
DX, DY = np.array(LAGS).T
SLACK = .006  # of the variance: what the torus of such a frame may lack


def family(name, flows):
    "Covariance over lags and directions, zero mean, equal axes"
    turbulence = haze(**FAMILIES[name])
    slack = turbulence.tilt_px**2 * (0 if name == "elastic" else 3 * SLACK if "published" in name else SLACK)
    energy = np.square(flows).mean((2, 3))
    return [*covariance_claims(flows, expected(turbulence), LAGS, slack=slack),
            *frame_claims(flows, expected(turbulence), slack=slack), claim("mean", np.zeros(2), flows.mean((2, 3))),
            claim("x = y", 0., energy[:, 0] - energy[:, 1], slack=slack)]


def retold(claims, theory):
    "The same samples against another theory"
    wrong = theory(DX, DY)
    return [replace(c, theory=wrong["xy".index(c.name[0]), "xy".index(c.name[1])]) if len(c.name) == 2 else c
            for c in claims]


@pytest.fixture(scope="module")
def drawn():
    "Fields of every family and what they say of the right theory, made once"
    kept = {}

    def fields(name):
        if name not in kept:
            flows = draws(haze(**FAMILIES[name]), 96, 129, FIELDS, "families", name)
            kept[name] = flows, family(name, flows)
        return kept[name]
    return fields


@pytest.mark.parametrize("name", FAMILIES)
def test_covariance_over_lags_and_directions(drawn, name): assert broken(drawn(name)[1]) == {}


@pytest.mark.parametrize("name", ["technion", "technion coded", "technion plane", "technion published"])
def test_samples_have_the_covariance_of_their_torus(drawn, name):
    "No slack: what `Field.covariance` says is what is drawn"
    turbulence = haze(**FAMILIES[name])
    field = technion_field(turbulence.view, 96, 129, turbulence.geometry)
    torus = torus_covariance(field, turbulence.tilt_px)
    assert broken(covariance_claims(drawn(name)[0], torus, directions([0, 1, 2, 4, 8, 16]), name)) == {}


def test_tilt_variances_are_the_closed_forms():
    "M1: C Cn2 L D^(-1/3). M2: 0.18192 (lambda / D)^2 (D / r0)^(5/3), less what the outer scale takes"
    first, second = haze(**FAMILIES["technion"]), haze(**FAMILIES["aperture"])
    lens = second.view
    assert first.tilt_px == pytest.approx(first.view.focal_px * aoa_variance(first.view, 3e-13)**.5, rel=1e-6)
    whole = lens.focal_px * (.18192 * (lens.wavelength_m / lens.aperture_m)**2 * 3**(5/3))**.5
    endless = haze(**FAMILIES["aperture"] | dict(view=replace(lens, outer_scale_m=math.inf)))
    assert endless.tilt_px == pytest.approx(whole, rel=1e-4)
    share = float(tilt_variance(lens, .05 / 3, lens.outer_scale_m) / tilt_variance(lens, .05 / 3))
    assert second.tilt_px == pytest.approx(whole * share**.5, rel=1e-3)


# Negative controls: the same samples against wrong theories

WRONG = {
    "variance 5 % high": lambda right, **_: lambda dx, dy: 1.05 * right(dx, dy),
    "variance 5 % low": lambda right, **_: lambda dx, dy: .95 * right(dx, dy),
    "long and lat exchanged": lambda right, **_: lambda dx, dy: right(dy, dx),
    "sign of the cross-covariance": lambda right, **_: lambda dx, dy: right(dx, -dy),
    "the other geometry": lambda right, turbulence: expected(
        turbulence, geometry="coded" if turbulence.geometry == "rederived" else "rederived"),
    "an aperture a quarter wider": lambda right, turbulence: lambda dx, dy: right(dx / 1.25, dy / 1.25),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["technion", "technion coded"])
def test_a_wrong_theory_is_seen(drawn, name, wrong):
    turbulence = haze(**FAMILIES[name])
    theory = WRONG[wrong](right=expected(turbulence), turbulence=turbulence)
    assert broken(retold(drawn(name)[1], theory)) != {}


@pytest.mark.parametrize("name", ["elastic", "aperture"])
@pytest.mark.parametrize("wrong", ["variance 5 % high", "variance 5 % low", "an aperture a quarter wider"])
def test_a_wrong_theory_of_other_models_is_seen(drawn, name, wrong):
    right = expected(haze(**FAMILIES[name]))
    assert broken(retold(drawn(name)[1], WRONG[wrong](right=right, turbulence=None))) != {}


@pytest.mark.parametrize("defect", [
    lambda flows: np.stack([flows[:, 0], flows[:, 0]], 1), lambda flows: flows[..., ::-1],
    lambda flows: flows / flows.std((2, 3), keepdims=True) * 1.533, lambda flows: np.round(flows),
    lambda flows: flows + .2, lambda flows: np.stack([flows[:, 0], .93 * flows[:, 1]], 1)],
    ids=["y is x", "mirrored", "every sample one variance", "whole pixels", "a drift", "y weaker"])
def test_defects_of_public_simulators_are_seen(drawn, defect):
    assert broken(family("technion", defect(drawn("technion")[0]))) != {}


def test_the_bound_is_that_of_a_family():
    assert family_bound(1, .05) == pytest.approx(1.96, abs=.001) and family_bound(1000) > 4.5
    noise = np.random.default_rng(3).normal(size=(200, 300))
    assert broken([claim("null", np.zeros(300), noise)]) == {}
    assert broken([claim("null", np.zeros(300), noise), claim("half", np.full(300, .5), noise)]).keys() == {"half"}


# Scale and time

@pytest.mark.parametrize("name", ["elastic", "technion", "aperture"])
def test_twice_as_fine_is_twice_the_flow(name):
    "Doubling rows, columns and focal length doubles the flow, with the same correlation at twice the lag"
    coarse = haze(**FAMILIES[name])
    flows = draws(replace_quietly(coarse, height=48).at(96), 96, 130, FIELDS, "fine", name)
    right, lags = expected(coarse), [(2 * x, 2 * y) for x, y in directions([0, 2, 4, 8])]
    def doubled(dx, dy): return 4 * right(np.asarray(dx) / 2, np.asarray(dy) / 2)
    assert broken(covariance_claims(flows, doubled, lags, name, 4 * SLACK * coarse.tilt_px**2)) == {}


def replace_quietly(turbulence, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return replace(turbulence, **changes)


@pytest.mark.parametrize("name", ["elastic", "technion", "aperture"])
def test_time_is_frozen_flow_and_boiling(name):
    shift, keep, m = (2, -1), math.exp(-.25), np.arange(5)
    windy = replace_quietly(haze(**FAMILIES[name]), motion=Motion(frame_s=.04, wind_px_s=(50., -25.), boiling_s=.16))
    clips = np.stack([windy.sequence(32, 45, 5, torch_rng("clips", name, i)).flow.numpy() for i in range(FIELDS)])
    clips, variance = clips.astype(np.float64), windy.tilt_px**2
    space = expected(windy)(m * shift[0], m * shift[1])

    def along(a, follow):
        return np.stack([lag_product(clips[:, t, a], clips[:, 0, a], *(follow * t * s for s in shift)) for t in m], 1)
    claims = [c for a in (0, 1) for c in (
        claim(f"one place {a}", keep**m * space[a, a], along(a, 0), slack=SLACK * variance),
        claim(f"with the wind {a}", keep**m * variance, along(a, 1), slack=SLACK * variance),
        claim(f"stationary {a}", np.full(5, variance), np.square(clips[:, :, a]).mean((2, 3)), slack=SLACK * variance))]
    assert broken(claims) == {}
    assert broken([claim("against the wind", keep**m * variance, along(0, -1))]) != {}
    assert broken([claim("no boiling", np.full(5, variance), along(0, 1))]) != {}
