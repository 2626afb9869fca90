"""How fast Keramorph is here, beside other people's libraries and beside what the memory allows: `make bench`.

`python -m benchmarks --help` lists the options. One process per framework holds that framework's candidates, and the
conductor (`rounds.py`) calls them in turn, a little of each in every round: whatever else this machine does hits all of
them alike, also across processes. That is why this is not a suite of pytest-benchmark or asv, which finish one
measurement before they begin the next.
"""
