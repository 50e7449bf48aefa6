r"""What serving costs before and beside the scan: import, opening, memory.

    python benchmarks/bench_memory.py --megabytes 200
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORT = """
import json, resource, sys, time
start = time.perf_counter()
import pyg_nodequant.runtime
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "torch": "torch" in sys.modules}))
"""

SERVE = """
import json, sys, time
import numpy as np
from pyg_nodequant.runtime import PackedTable

def resident():
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(lines[name].split()[0]) * 1024
            for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}

small = PackedTable.from_float(np.random.default_rng(0).normal(
    size=(300, 64)), np.resize([1, 2, 3, 4, 8], 300))
small.topk(np.ones(64), 20)
base = resident()
start = time.perf_counter()
table = PackedTable.open(sys.argv[1], verify=False)
opened = time.perf_counter() - start
rng = np.random.default_rng(0)
start = time.perf_counter()
table.topk(rng.normal(size=64), 20)
first = time.perf_counter() - start
for _ in range(50):
    table.topk(rng.normal(size=64), 20)
table.topk(rng.normal(size=(100, 64)), 20)
after = resident()
print(json.dumps({"open": opened, "first": first, "base": base,
                  "after": after, "rows": len(table),
                  "packed": table.nbytes}))
"""


def run(code, *argv):
    """What a fresh process prints."""
    out = subprocess.run([sys.executable, "-c", code, *argv], check=True,
                         text=True, capture_output=True)
    return json.loads(out.stdout)


def main():
    """Prints each figure beside its bar."""
    from pyg_nodequant.app.serve_bench import synthetic_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    run(IMPORT)
    imports = [run(IMPORT) for _ in range(5)]
    print(f"import: {statistics.median(x['seconds'] for x in imports):.2f} s "
          f"warm, {max(x['rss_mb'] for x in imports):.0f} MB, torch "
          f"{'imported' if imports[0]['torch'] else 'not imported'}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.nq"
        table = synthetic_table("mixed", 1000)
        rows = int(options.megabytes * 1e6 / (table.nbytes / 1000))
        synthetic_table("mixed", rows).save(path)
        run(SERVE, str(path))
        found = [run(SERVE, str(path)) for _ in range(3)]
        one = found[0]
        bound = (one["base"]["VmRSS"] + one["packed"] + 12 * one["rows"] +
                 64 * 2**20)
        print(f"a file of {path.stat().st_size / 1e6:.0f} MB, "
              f"{one['rows']:,} rows, mapped, verify=False: opened in "
              f"{1e3 * statistics.median(x['open'] for x in found):.1f} ms, "
              f"first query {1e3 * one['first']:.0f} ms")
        print(f"resident: {one['base']['VmRSS'] / 1e6:.0f} MB after import "
              f"and a first query, {one['after']['VmRSS'] / 1e6:.0f} MB while "
              f"serving (of it {one['after']['RssAnon'] / 1e6:.0f} MB not of "
              f"files), highest {one['after']['VmHWM'] / 1e6:.0f} MB; bound "
              f"{bound / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
