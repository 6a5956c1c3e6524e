"""What `lastcall map` is made of: functions run over lines of files, to be taken up again where they were left.

target.py finds the function, inputs.py reads items lazily and tells whether they are the same as before, journal.py is
the output, from which the next run knows what is done. cli/map.py puts them together.
"""
