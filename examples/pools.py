"""multiprocessing's pools, on a cluster: what is changed are the imports.

For one machine:

    from multiprocessing import Pool
    from multiprocessing.pool import ThreadPool
"""

from lastcall import Pool, ThreadPool


def cook(food: str, minutes: int = 10) -> str:
    return f"{food} after {minutes} minutes"


def process_map() -> None:
    with Pool(2) as pool:
        print(pool.map(cook, ["bun", "mantou", "dumpling"]))
        print(pool.starmap(cook, [("bun", 12), ("mantou", 15)]))


def process_async() -> None:
    pool = Pool(2)
    results = [pool.apply_async(cook, (food,), {"minutes": 8}) for food in ("bun", "mantou")]
    pool.close()
    pool.join()
    print([result.get() for result in results])


def process_as_they_come() -> None:
    with Pool(2) as pool:
        for dish in pool.imap(cook, ["bun", "mantou"]):
            print(dish)
        served: list[str] = []
        pool.apply_async(cook, ("dumpling",), callback=served.append).wait()
        print(served)


def thread_map() -> None:
    with ThreadPool(4) as pool:
        print(pool.map(cook, ["tea", "soup"]))


if __name__ == "__main__":
    process_map()
    process_async()
    process_as_they_come()
    thread_map()
