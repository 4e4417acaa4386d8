import sys
from tests.simulation.run import simulate
from tests.simulation.world import Violation
try: simulate(int(sys.argv[1])); print("ok")
except Violation as v:
    for e in v.history.events:
        l=' '.join(map(str,e))
        if len(sys.argv)<3 or any(a in l for a in sys.argv[2:]): print(l[:220])
    print(v)
