"""What hashing leaves behind in a process."""

import subprocess
import sys

MEASURE = """
import asyncio, os
from app.passwords import Passwords, return_large_blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main():
    passwords = Passwords()
    return_large_blocks()
    before = resident()
    for _ in range(2):
        await asyncio.gather(*(passwords.hash("secret") for _ in range(2)))
    print(resident() - before)

asyncio.run(main())
"""


def test_the_memory_of_hashes_goes_back_to_the_system() -> None:
    """Two threads take 16 MiB each for a hash, and would keep them."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 1024 * 1024
