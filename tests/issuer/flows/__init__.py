"""Whole flows against the running program, over the stand-in always and over the real kanidmd where there is one."""
