{"device":"d","driver":"1","libraries":"l","seed":3,"models":[{"name":"x","buckets":[{"batch":1,"sequence":0,"operators":4}]},{"name":"y","buckets":[{"batch":2,"sequence":8,"operators":4}]}],"abacus_profile":1}
{"solo":{"model":0,"bucket":0,"operators":[0,2,4],"us":[1,20.5,40]}}
{"solo":{"model":1,"bucket":0,"operators":[0,4],"us":[0,41]}}
{"group":{"index":0,"ranges":[[0,0,0,4],[1,0,2,4]],"us":55.5,"spread":0.01,"repetitions":3}}
{"group":{"index":1,"ranges":[[1,0,0,3]],"us":null,"spread":0.01,"repetitions":3}}
{"skip":{"index":2,"why":"died"}}
{"clock":{"t_s":1.5,"sm_mhz":1980,"memory_m