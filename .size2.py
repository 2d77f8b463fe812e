import sys

sys.path.insert(0, "benchmarks")
import torch
import sciml
import time

torch.set_num_threads(1)
from cases.unseen import UNSEEN_CASES

c = UNSEEN_CASES[0]
for seed in (31, 32):
    for p in (0, 24, 100):
        t = time.time()
        s = sciml.solve(
            c.problem(seed),
            c.model(seed),
            list(c.phases),
            switch=p,
            seed=seed,
            budget=sciml.Budget(evaluations=30, target={c.value: 0.1}),
        )
        ev = [
            (round(r["evaluations"], 1), float("%.3g" % r["values"][c.value]))
            for r in s.history
            if r["kind"] == "evaluate"
        ]
        print(seed, p, s.result.name, "%.1f s" % (time.time() - t), ev[:: max(1, len(ev) // 14)], flush=True)
