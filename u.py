import sys
from tests.simulation.run import simulate
from tests.simulation.world import Violation
for s in map(int,sys.argv[1:]):
    try: simulate(s); print(s,"ok")
    except Violation as v:
        h=v.history.events
        print(s, "deleted bot" if any("finish_deletion" in str(e) for e in h) else "-", "collect_abandoned refused" if any("collect_abandoned" in str(e) and "refused" in str(e) for e in h) else "-", str(v)[:90])
