"""Questions to rows and runs, a folder each: `compute` answers, `show` prints, `files` and `page` write.

`frontier`: how small can the classifier be? `audit`: which labels are wrong? `learning_curve`: would more labels
help? `abstain`: when should it not answer? `passport`: is what is deployed what was measured? `explain`: what speaks
for a prediction?
"""
