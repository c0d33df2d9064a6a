"""``kiwi-id status``: what a running Kiwi ID tells, what its files tell, what to do about it, and one screen of it all.

The supervisor answers from memory alone (:mod:`kiwi_id.operations`); whatever takes a disk is read by the command itself, so that
asking costs no login anything, and so that much can be told when nothing runs.
"""
