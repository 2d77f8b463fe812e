import sys

sys.path.insert(0, "benchmarks")
import torch
import sciml
import time

torch.set_num_threads(1)
from cases.unseen import UNSEEN_CASES

for c in UNSEEN_CASES:
    if sys.argv[1:] and not any(a in c.name for a in sys.argv[1:]):
        continue
    for p in (0, c.points[3]):
        t = time.time()
        try:
            s = sciml.solve(
                c.problem(31),
                c.model(31),
                list(c.phases),
                switch=p,
                seed=31,
                budget=sciml.Budget(evaluations=c.limit, target={c.value: c.target}),
            )
        except Exception:
            import traceback

            traceback.print_exc()
            break
        st = [r for r in s.history if r["kind"] == "step"]
        ev = [
            (round(r["evaluations"], 1), float("%.3g" % r["values"][c.value]))
            for r in s.history
            if r["kind"] == "evaluate"
        ]
        print(
            c.name,
            "at",
            p,
            "N/B",
            st[0]["set"],
            st[0]["batch"],
            "cost",
            s.evaluations,
            s.result.name,
            s.values,
            "%.1f s" % (time.time() - t),
            ev[:: max(1, len(ev) // 10)],
            flush=True,
        )
