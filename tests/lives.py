"""A program for the tests of resuming: trainings in processes that really die.

Torch is imported once; every training runs in a fork of this process, so that fifty deaths take seconds.
"""
import json
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path

import torch
from fastai.basics import Callback
from safetensors.torch import load_file, save_file

from hotseg.core import seed_everything
from hotseg.train.checkpoint import fit_resumable, newest_readable, read_checkpoint, training_tensors
from hotseg.train.learner import every_example


class DieAt(Callback):
    "SIGKILL to oneself after a batch: no exception handler, no `finally`, no flush"
    order = 80
    def __init__(self, epoch, batch): self.moment = epoch, batch
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == self.moment: os.kill(os.getpid(), signal.SIGKILL)


class Announce(Callback):
    "Write to a pipe when a save begins and when it has ended: just before and after KeepCheckpoint (70)"
    def __init__(self, pipe, word, order): self.pipe, self.word, self.order = pipe, word, order
    def after_batch(self):
        if self.training: os.write(self.pipe, f"{self.word} {self.epoch} {self.iter + 1}\n".encode())


def train(make, folder, epochs, callbacks=(), result=None, every=0, **options):
    "One life of a training"
    seed_everything(1)
    learn = make(**options)
    with learn.no_bar(), learn.no_logging(): fit_resumable(learn.add_cbs(callbacks), epochs, folder, every)
    tensors = {f"{file}|{k}": v for file, part in training_tensors(learn).items() for k, v in part.items()}
    if result: save_file(tensors, result)


def fork(*args, **kwargs):
    "A child that trains; its pid"
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        train(*args, **kwargs)
        code = 0
    finally: os._exit(code)


def end_of(pid):
    "0, or minus the signal"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def same(a, b):
    "Names of tensors that differ in the files of two trainings"
    a, b = load_file(a), load_file(b)
    return sorted(a.keys() ^ b.keys()) + sorted(k for k in a.keys() & b.keys() if not a[k].equal(b[k]))


def broken_and_whole(name, folder):
    "A training in one go, one killed in the middle of its second epoch, one with loader processes: what differs"
    make, folder = every_example()[name], Path(folder)
    whole, broken, helped = (folder/part for part in ("whole", "broken", "helped"))
    ends = [end_of(fork(make, whole, 3, result=f"{whole}.safetensors")),
            end_of(fork(make, broken, 3, [DieAt(1, 0)])),
            end_of(fork(make, broken, 3, result=f"{broken}.safetensors")),
            end_of(fork(make, helped, 3, result=f"{helped}.safetensors", workers=2))]
    return dict(ends=ends, broken=same(f"{whole}.safetensors", f"{broken}.safetensors"),
                helped=same(f"{whole}.safetensors", f"{helped}.safetensors"))


def one_death(make, folder, epochs, chance, typical):
    "Let a training live for some saves, kill it during the next; the last save it had finished"
    read, write = os.pipe()
    announce = [Announce(write, "begin", 69), Announce(write, "end", 71)]
    pid = fork(make, folder, epochs, announce)
    os.close(write)
    finished, spans, target, began = None, [], chance.randrange(1, 5), 0.
    with os.fdopen(read) as lines:
        for line in lines:
            word, epoch, batch = line.split()
            if word == "end": finished, _ = (int(epoch), int(batch)), spans.append(time.monotonic() - began)
            else:
                began, target = time.monotonic(), target - 1
                if not target: break
        time.sleep(chance.uniform(0, 1.2 * typical))
        os.kill(pid, signal.SIGKILL)
        for line in lines:
            word, epoch, batch = line.split()
            if word == "end": finished = int(epoch), int(batch)
    assert end_of(pid) == -signal.SIGKILL
    return finished, spans


def fifty_deaths(name, folder, deaths=50, epochs=40):
    "Kills at random moments of saving: what could be loaded after each, and what came out in the end"
    make, folder, chance = every_example()[name], Path(folder), random.Random(0)
    state, typical, lives, last, left_over = folder/"state", .01, [], (0, 0), 0
    for _ in range(deaths):
        finished, spans = one_death(make, state, epochs, chance, typical)
        if spans: typical = statistics.median(spans)
        left_over += len([*state.glob(".epoch-*")])
        last = max(last, finished or last)
        progress = read_checkpoint(newest_readable(state))[1]["progress"]
        lives.append(dict(finished=last, loaded=(progress["epoch"], progress["batch"])))
    ends = [end_of(fork(make, state, epochs, result=f"{folder}/broken.safetensors", every=60)),
            end_of(fork(make, folder/"whole", epochs, result=f"{folder}/whole.safetensors", every=60))]
    differ = same(f"{folder}/broken.safetensors", f"{folder}/whole.safetensors")
    return dict(lives=lives, ends=ends, differ=differ, left_over=left_over, tidy=not [*state.glob(".epoch-*")])


if __name__ == "__main__":
    torch.set_num_threads(1)
    work = dict(broken_and_whole=broken_and_whole, fifty_deaths=fifty_deaths)[sys.argv[1]]
    print(json.dumps({name: work(name, f"{sys.argv[2]}/{i}") for i, name in enumerate(sys.argv[3:])
                      if not os.makedirs(f"{sys.argv[2]}/{i}")}))
