"""lastcall_flower: Flower, with a page for lastcall's queues. Start at command.py; what the page tells is watch.py."""
