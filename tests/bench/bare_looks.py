"""A bare loop over the same HTTP library, for each of as many instances: a request a second, and nothing follows.

python -m tests.bench.bare_looks PORT INSTANCES SECONDS   prints looks and CPU seconds
"""

import asyncio
import random
import sys
import time

import h11


async def look(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "127.0.0.1"), ("Connection", "close")]
    request = h11.Request(method="GET", target="/healthz", headers=headers)
    writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(16_384))
        elif isinstance(event, h11.EndOfMessage):
            break
    writer.transport.abort()


async def main(port: int, instances: int, seconds: float) -> None:
    looks = 0

    async def go_on() -> None:
        nonlocal looks
        await asyncio.sleep(random.random())
        while True:
            await look(port)
            looks += 1
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(go_on()) for _ in range(instances)]
    await asyncio.sleep(1)  # all have begun
    before, used = looks, time.process_time()
    await asyncio.sleep(seconds)
    print(looks - before, time.process_time() - used)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
