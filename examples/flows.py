"""A big step made of small ones: which words the letters in a mailbox use most, one flow in each of its modes."""

import collections
from collections.abc import Iterator

from lastcall import Client, Flow, batch, fan_out, filter, reduce

LETTERS = [
    "the bun is eaten the mantou is not",
    "the soup is hot",
    "who has eaten the mantou",
]


def words(letter: str) -> Iterator[str]:  # a generator function: each word goes on by itself
    yield from letter.split()


def is_long(word: str) -> bool:
    return len(word) > 2


def count(some: list[str]) -> collections.Counter[str]:
    return collections.Counter(some)


def merged(left: collections.Counter[str], right: collections.Counter[str]) -> collections.Counter[str]:
    return left + right


def shouted(word: str) -> str:
    return word.upper()


def main() -> None:
    most = Flow(words) | filter(is_long) | batch(4) | count | reduce(merged)
    with Client() as client:
        for mode in ("serial", "horizontal", "vertical", "streaming", "auto"):
            (counted,) = client.run(most, LETTERS, mode=mode).results()
            print(mode, counted.most_common(3))
        print(list(client.run(Flow(words) | fan_out(len, shouted), LETTERS[1:2]).results()))


if __name__ == "__main__":
    main()
