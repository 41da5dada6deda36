"""Analyses of data and runs, one folder each: `compute` computes, `show` prints, `files` and `page` write.

`frontier`: accuracy by size. `audit`: wrong labels. `learning_curve`: the gain from more labels. `abstain`: thresholds
for abstention. `passport`: comparison of the deployable forms of a run. `explain`: evidence for predictions.
"""
