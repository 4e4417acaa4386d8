import sys,time,collections
from tests.simulation.run import simulate
from tests.simulation.world import Violation
t=time.time(); n=int(sys.argv[2]); c=collections.Counter(); first={}
for s in range(int(sys.argv[1]),int(sys.argv[1])+n):
    try: w=simulate(s)
    except Violation as v:
        k=str(v)[:40]; c[k]+=1; first.setdefault(k,[]).append((s,str(v)[:200]))
print(time.time()-t)
for k,x in c.items(): print(x,first[k][:3])
