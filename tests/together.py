"""A program for the tests of several processes: the same trainings, alone or under torchrun."""
import json
import sys
from pathlib import Path

import torch
from fastai.basics import Callback
from safetensors.torch import save_file
from torch import nn

from hotseg.core import seed_everything
from hotseg.processes import gather_json, join_processes, rank
from hotseg.train.checkpoint import fit_resumable, training_tensors
from hotseg.train.evaluate import evaluate
from hotseg.train.learner import every_example


class Double(Callback):
    "Batches in double precision: what then differs is not rounding"
    order = 90
    def before_batch(self): self.learn.xb = tuple(x.double() if x.is_floating_point() else x for x in self.xb)


def comparable(learn):
    "No dropout, which draws for each process apart; plain gradient steps, in double precision"
    learn.model.double()
    learn.add_cb(Double())
    for layer in learn.model.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d)): layer.p = 0.
    for player in learn.method.players.values():
        if player.optimiser: player.optimiser = torch.optim.SGD(player.module.parameters(), 1.)
    return learn


def quiet(learn, work):
    with learn.no_bar(), learn.no_logging(): work(learn)
    return learn


def weights(learn):
    "All of them, but the running statistics of players that never leave training mode: they see the evaluation too"
    unread = {f"{name}.{k}" for name, player in learn.method.players.items() if player.mode == "train"
              for k, _ in player.module.named_buffers()}
    return {k: v.contiguous() for k, v in learn.model.state_dict().items() if k not in unread}


def trained(name, out):
    "Two epochs; what came out"
    seed_everything(1)
    learn = quiet(comparable(every_example()[name]()), lambda learn: learn.fit(2))
    learn.model.eval()
    space = learn.metrics[0].space
    groups = ["a", "b"] * len(learn.dls.valid.dataset)
    scores = evaluate(lambda image: learn.method.predict(image.double()), learn.dls.valid, space, groups)
    told = dict(log=[[float(v) for v in row] for row in learn.recorder.values], skipped=int(learn.method.skipped),
                scores={k: v for k, v in scores.items() if k != "ms"},
                sums=gather_json({k: float(v.double().sum()) for k, v in weights(learn).items()}))
    if rank() == 0: save_file(weights(learn), f"{out}.safetensors")
    return told


def resumed(name, out):
    "Three epochs in one go, and two and one, dropout and all: names of the tensors that differ"
    ends = []
    for part, stops in (("whole", [3]), ("parts", [2, 3])):
        for epochs in stops:
            seed_everything(1)
            learn = quiet(every_example()[name](), lambda learn: fit_resumable(learn, epochs, f"{out}/{part}", 0))
        ends.append({f"{f}/{k}": v for f, tensors in training_tensors(learn).items() for k, v in tensors.items()})
    return sorted(k for k in ends[0] if not k.startswith("state/random") and not ends[0][k].equal(ends[1][k]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    join_processes("cpu")
    work, out, names = dict(trained=trained, resumed=resumed)[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:]
    told = {name: work(name, out/str(i)) for i, name in enumerate(names)}
    if rank() == 0: (out/"told.json").write_text(json.dumps(told))
